// SPDX-License-Identifier: Apache-2.0
/* PCM descriptors without alsa-lib; the contract is in sound/pcm.h. */
#define _GNU_SOURCE
#include "sound/pcm.h"

#include <errno.h>
#include <limits.h>
#include <sound/asound.h>
#include <string.h>
#include <sys/ioctl.h>

#define WANTED_RATE 48000
#define NEVER LONG_MAX /* a threshold that no stream reaches */

/* By preference; the frames are copied as they are. */
static const struct {
    uint32_t format, bytes; /* of a sample */
} formats[] = {
    {(uint32_t)SNDRV_PCM_FORMAT_S16_LE, 2},
    {(uint32_t)SNDRV_PCM_FORMAT_S32_LE, 4},
    {(uint32_t)SNDRV_PCM_FORMAT_S24_LE, 4},
    {(uint32_t)SNDRV_PCM_FORMAT_S24_3LE, 3},
};

static int control(int fd, unsigned long request, void *argument) {
    int result;

    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

static struct snd_interval *interval(struct snd_pcm_hw_params *p, int which) {
    return &p->intervals[which - SNDRV_PCM_HW_PARAM_FIRST_INTERVAL];
}

static void between(struct snd_pcm_hw_params *p, int which, uint32_t least, uint32_t most) {
    *interval(p, which) = (struct snd_interval){.min = least, .max = most, .integer = 1};
}

static void mask(struct snd_pcm_hw_params *p, int which, uint32_t bit) {
    struct snd_mask *m = &p->masks[which - SNDRV_PCM_HW_PARAM_FIRST_MASK];

    memset(m, 0, sizeof(*m));
    m->bits[bit / 32] = 1u << bit % 32;
}

/* Anything, by interleaved frames. */
static void any(struct snd_pcm_hw_params *p) {
    memset(p, 0, sizeof(*p));
    memset(p->masks, 0xff, sizeof(p->masks));
    for (unsigned i = 0; i < sizeof(p->intervals) / sizeof(p->intervals[0]); i++)
        p->intervals[i].max = UINT_MAX;
    p->rmask = UINT_MAX;
    p->info = UINT_MAX;
    mask(p, SNDRV_PCM_HW_PARAM_ACCESS, (uint32_t)SNDRV_PCM_ACCESS_RW_INTERLEAVED);
}

static void formed(struct snd_pcm_hw_params *p, const struct hs_pcm_form *form) {
    any(p);
    mask(p, SNDRV_PCM_HW_PARAM_FORMAT, form->format);
    if (form->channels)
        between(p, SNDRV_PCM_HW_PARAM_CHANNELS, form->channels, form->channels);
    if (form->rate)
        between(p, SNDRV_PCM_HW_PARAM_RATE, form->rate, form->rate);
}

/* Whether the card has it; what is 0 in the form becomes the card's least. */
static int fits(int fd, struct hs_pcm_form *form) {
    struct snd_pcm_hw_params p;
    int ret;

    formed(&p, form);
    ret = control(fd, SNDRV_PCM_IOCTL_HW_REFINE, &p);
    if (ret < 0)
        return ret;
    form->channels = interval(&p, SNDRV_PCM_HW_PARAM_CHANNELS)->min;
    form->rate = interval(&p, SNDRV_PCM_HW_PARAM_RATE)->min;
    return 0;
}

int hs_pcm_choose(int fd, struct hs_pcm_form *form) {
    static const struct {
        uint32_t channels, rate;
    } ways[] = {{2, WANTED_RATE}, {2, 0}, {0, WANTED_RATE}, {0, 0}};
    int ret = -EINVAL;

    for (unsigned w = 0; w < sizeof(ways) / sizeof(ways[0]); w++)
        for (unsigned f = 0; f < sizeof(formats) / sizeof(formats[0]); f++) {
            *form = (struct hs_pcm_form){
                .format = formats[f].format, .channels = ways[w].channels, .rate = ways[w].rate};
            ret = fits(fd, form);
            if (ret == 0 && form->channels > 0 && form->channels <= 32) {
                form->bytes = formats[f].bytes * form->channels;
                return 0;
            }
            if (ret != 0 && ret != -EINVAL)
                return ret;
        }
    return -EINVAL;
}

int hs_pcm_set(int fd, struct hs_pcm_form *form, int capture) {
    struct snd_pcm_sw_params sw;
    struct snd_pcm_hw_params p;
    int ret;

    formed(&p, form);
    between(&p, SNDRV_PCM_HW_PARAM_PERIOD_SIZE, form->rate / 100, form->rate / 50);
    between(&p, SNDRV_PCM_HW_PARAM_BUFFER_SIZE, form->rate / 8, form->rate / 2);
    ret = control(fd, SNDRV_PCM_IOCTL_HW_PARAMS, &p);
    if (ret < 0)
        return ret;
    form->buffer = interval(&p, SNDRV_PCM_HW_PARAM_BUFFER_SIZE)->min;
    memset(&sw, 0, sizeof(sw));
    sw.tstamp_mode = SNDRV_PCM_TSTAMP_NONE;
    sw.period_step = 1;
    sw.avail_min = form->rate / 100;
    sw.start_threshold = NEVER;
    sw.stop_threshold = capture ? (snd_pcm_uframes_t)NEVER : form->buffer;
    ret = control(fd, SNDRV_PCM_IOCTL_SW_PARAMS, &sw);
    return ret < 0 ? ret : hs_pcm_prepare(fd);
}

int hs_pcm_state(int fd) {
    struct snd_pcm_status status;
    int ret;

    memset(&status, 0, sizeof(status));
    ret = control(fd, SNDRV_PCM_IOCTL_STATUS, &status);
    return ret < 0 ? ret : (int)status.state;
}

int64_t hs_pcm_waiting(int fd) {
    snd_pcm_sframes_t frames = 0;
    int ret = control(fd, SNDRV_PCM_IOCTL_DELAY, &frames);

    return ret < 0 ? ret : frames < 0 ? 0 : frames;
}

int hs_pcm_prepare(int fd) {
    return control(fd, SNDRV_PCM_IOCTL_PREPARE, NULL);
}

int hs_pcm_start(int fd) {
    return control(fd, SNDRV_PCM_IOCTL_START, NULL);
}

int hs_pcm_drop(int fd) {
    return control(fd, SNDRV_PCM_IOCTL_DROP, NULL);
}

static int64_t move(int fd, unsigned long request, uint32_t frames) {
    snd_pcm_uframes_t moved = frames;
    int ret = control(fd, request, &moved);

    return ret < 0 ? ret : (int64_t)moved;
}

int64_t hs_pcm_skip(int fd, uint32_t frames) {
    return move(fd, SNDRV_PCM_IOCTL_FORWARD, frames);
}

int64_t hs_pcm_unwrite(int fd, uint32_t frames) {
    return move(fd, SNDRV_PCM_IOCTL_REWIND, frames);
}

int64_t hs_pcm_read(int fd, void *to, uint32_t frames) {
    struct snd_xferi x = {.buf = to, .frames = frames};
    int ret = control(fd, SNDRV_PCM_IOCTL_READI_FRAMES, &x);

    return ret < 0 ? ret : x.result;
}

int64_t hs_pcm_write(int fd, const void *from, uint32_t frames) {
    struct snd_xferi x = {.buf = (void *)from, .frames = frames};
    int ret = control(fd, SNDRV_PCM_IOCTL_WRITEI_FRAMES, &x);

    return ret < 0 ? ret : x.result;
}
