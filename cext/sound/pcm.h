// SPDX-License-Identifier: Apache-2.0
/* PCM descriptors without alsa-lib: parameters, positions, frames (linux sound/asound.h). Every
 * function returns a value >= 0 or a negative errno. */
#ifndef HS_PCM_H
#define HS_PCM_H
#include <stdint.h>

struct hs_pcm_form {
    uint32_t format; /* SNDRV_PCM_FORMAT_* */
    uint32_t channels;
    uint32_t rate;   /* frames a second */
    uint32_t bytes;  /* of a frame */
    uint32_t buffer; /* frames */
};

/* Find what a card can do, 48 kHz stereo of 16 bits if it can. EINVAL: nothing that snd-aloop can
 * too. */
int hs_pcm_choose(int fd, struct hs_pcm_form *form);
/* Set a descriptor up like that, prepared; form.buffer is what it has then. It starts and is read
 * or written only when told; a playback one stops when it is empty, a capture one never. */
int hs_pcm_set(int fd, struct hs_pcm_form *form, int capture);

/* SNDRV_PCM_STATE_*. */
int hs_pcm_state(int fd);
/* Frames that wait to be read or to be played. EPIPE: it ran empty. */
int64_t hs_pcm_waiting(int fd);
int hs_pcm_prepare(int fd);
int hs_pcm_start(int fd);
/* Stop at once. */
int hs_pcm_drop(int fd);
/* Go on in a capture buffer, or back in a playback one; how far it went. */
int64_t hs_pcm_skip(int fd, uint32_t frames);
int64_t hs_pcm_unwrite(int fd, uint32_t frames);
/* Frames read or written; EAGAIN: none now. */
int64_t hs_pcm_read(int fd, void *to, uint32_t frames);
int64_t hs_pcm_write(int fd, const void *from, uint32_t frames);

#endif
