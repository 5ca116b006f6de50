// SPDX-License-Identifier: Apache-2.0
/* A sound card's mixer by its ioctls; the contract is in sound/mixer.h. */
#define _GNU_SOURCE
#include "sound/mixer.h"

#include <errno.h>
#include <sound/asound.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define ELEMENTS 1024          /* most of a card that are looked at */
#define TLV_WORDS 256          /* most of one dB scale */
#define NAMES_SIZE (64 * 1024) /* most of all names of choices; the kernel's limit too */
#define READ_WRITE (SNDRV_CTL_ELEM_ACCESS_READ | SNDRV_CTL_ELEM_ACCESS_WRITE)

static int control(int fd, unsigned long request, void *argument) {
    int result;

    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

/* How many elements a card has; their ids, the caller's to free. */
static int ids(int fd, struct snd_ctl_elem_id **out) {
    struct snd_ctl_elem_list list;
    int ret;

    *out = calloc(ELEMENTS, sizeof(**out));
    if (*out == NULL)
        return -ENOMEM;
    memset(&list, 0, sizeof(list));
    list.space = ELEMENTS;
    list.pids = *out;
    ret = control(fd, SNDRV_CTL_IOCTL_ELEM_LIST, &list);
    return ret < 0 ? ret : (int)list.used;
}

static int about(int fd, uint32_t number, struct snd_ctl_elem_info *info) {
    memset(info, 0, sizeof(*info));
    info->id.numid = number;
    return control(fd, SNDRV_CTL_IOCTL_ELEM_INFO, info);
}

static bool is_choice(const struct snd_ctl_elem_info *info) {
    return info->type == SNDRV_CTL_ELEM_TYPE_ENUMERATED;
}

/* Whether it is an element as the header has it. */
static bool fits(const struct snd_ctl_elem_info *info) {
    return info->id.iface == SNDRV_CTL_ELEM_IFACE_MIXER &&
           (info->access & READ_WRITE) == READ_WRITE && info->count <= HS_MIXER_VALUES &&
           (info->type == SNDRV_CTL_ELEM_TYPE_INTEGER ||
            info->type == SNDRV_CTL_ELEM_TYPE_BOOLEAN || is_choice(info));
}

int hs_mixer_list(int fd, struct hs_mixer_element *out, uint32_t most) {
    struct snd_ctl_elem_info info;
    struct snd_ctl_elem_id *id;
    int there = ids(fd, &id), found = 0;

    for (int i = 0; i < there; i++) {
        if (about(fd, id[i].numid, &info) < 0 || !fits(&info))
            continue;
        if ((uint32_t)found < most) {
            struct hs_mixer_element *e = &out[found];

            memset(e, 0, sizeof(*e));
            memcpy(e->name, info.id.name, sizeof(e->name) - 1);
            e->index = info.id.index;
            e->number = info.id.numid;
            e->count = info.count;
            e->most = 1;
            if (is_choice(&info))
                e->most = (int64_t)info.value.enumerated.items - 1;
            else if (info.type == SNDRV_CTL_ELEM_TYPE_INTEGER) {
                e->least = info.value.integer.min;
                e->most = info.value.integer.max;
            }
        }
        found++;
    }
    free(id);
    return there < 0 ? there : found;
}

int hs_mixer_read(int fd, uint32_t number, int64_t *values) {
    struct snd_ctl_elem_info info;
    struct snd_ctl_elem_value value;
    int ret = about(fd, number, &info);

    if (ret < 0)
        return ret;
    if (!fits(&info))
        return -EINVAL;
    memset(&value, 0, sizeof(value));
    value.id.numid = number;
    ret = control(fd, SNDRV_CTL_IOCTL_ELEM_READ, &value);
    if (ret < 0)
        return ret;
    for (uint32_t i = 0; i < info.count; i++)
        values[i] =
            is_choice(&info) ? value.value.enumerated.item[i] : value.value.integer.value[i];
    return (int)info.count;
}

int hs_mixer_write(int fd, uint32_t number, const int64_t *values, uint32_t count) {
    struct snd_ctl_elem_info info;
    struct snd_ctl_elem_value value;
    int ret = about(fd, number, &info);

    if (ret < 0)
        return ret;
    if (!fits(&info) || count > info.count)
        return -EINVAL;
    memset(&value, 0, sizeof(value));
    value.id.numid = number;
    for (uint32_t i = 0; i < count; i++)
        if (is_choice(&info))
            value.value.enumerated.item[i] = (unsigned)values[i];
        else
            value.value.integer.value[i] = (long)values[i];
    return control(fd, SNDRV_CTL_IOCTL_ELEM_WRITE, &value);
}

/* The names of an element's choices, one after the other, each with its 0; the caller's to free. */
static int names_of(int fd, uint32_t number, uint32_t items, char **out, uint32_t *size) {
    struct snd_ctl_elem_info info;
    char *names = malloc(NAMES_SIZE);
    uint32_t used = 0;
    int ret = names ? 0 : -ENOMEM;

    for (uint32_t i = 0; ret >= 0 && i < items; i++) {
        size_t length;

        memset(&info, 0, sizeof(info));
        info.id.numid = number;
        info.value.enumerated.item = i;
        ret = control(fd, SNDRV_CTL_IOCTL_ELEM_INFO, &info);
        length = strnlen(info.value.enumerated.name, sizeof(info.value.enumerated.name) - 1) + 1;
        if (ret >= 0 && used + length > NAMES_SIZE)
            ret = -EINVAL;
        if (ret < 0)
            break;
        memcpy(names + used, info.value.enumerated.name, length);
        names[used + length - 1] = 0;
        used += (uint32_t)length;
    }
    if (ret < 0) {
        free(names);
        names = NULL;
    }
    *out = names;
    *size = used;
    return ret;
}

/* The dB scale. One that has none, or a strange one, goes without. */
static void scale(int from, uint32_t number, int to, uint32_t there) {
    union {
        struct snd_ctl_tlv tlv;
        uint32_t words[2 + TLV_WORDS];
    } u;

    memset(&u, 0, sizeof(u));
    u.tlv.numid = number;
    u.tlv.length = TLV_WORDS * 4;
    if (control(from, SNDRV_CTL_IOCTL_TLV_READ, &u) < 0 || u.tlv.tlv[1] > (TLV_WORDS - 2) * 4)
        return;
    u.tlv.length = u.tlv.tlv[1] + 8; /* type, length, then so many bytes */
    u.tlv.numid = there;
    control(to, SNDRV_CTL_IOCTL_TLV_WRITE, &u);
}

int hs_mixer_like(int from, uint32_t number, int to) {
    struct snd_ctl_elem_info info, made;
    char *names = NULL;
    int ret = about(from, number, &info);

    if (ret < 0)
        return ret;
    if (!fits(&info))
        return -EINVAL;
    made = info;
    made.id.numid = 0;
    made.access = READ_WRITE;
    if (info.access & SNDRV_CTL_ELEM_ACCESS_TLV_READ)
        made.access |= SNDRV_CTL_ELEM_ACCESS_TLV_READWRITE;
    made.owner = 1; /* so many elements */
    if (is_choice(&info)) {
        uint32_t size = 0;

        ret = names_of(from, number, info.value.enumerated.items, &names, &size);
        if (ret < 0)
            return ret;
        made.value.enumerated.names_ptr = (uintptr_t)names;
        made.value.enumerated.names_length = size;
    }
    ret = control(to, SNDRV_CTL_IOCTL_ELEM_ADD, &made);
    free(names);
    if (ret < 0)
        return ret;
    if (info.access & SNDRV_CTL_ELEM_ACCESS_TLV_READ)
        scale(from, number, to, made.id.numid);
    control(to, SNDRV_CTL_IOCTL_ELEM_UNLOCK, &made.id); /* a new one is its maker's to write */
    return (int)made.id.numid;
}

int hs_mixer_watch(int fd) {
    int on = 1;

    return control(fd, SNDRV_CTL_IOCTL_SUBSCRIBE_EVENTS, &on);
}

int hs_mixer_clear(int fd) {
    struct snd_ctl_elem_info info;
    struct snd_ctl_elem_id *id;
    int there = ids(fd, &id);

    for (int i = 0; i < there; i++)
        if (about(fd, id[i].numid, &info) == 0 && (info.access & SNDRV_CTL_ELEM_ACCESS_USER))
            control(fd, SNDRV_CTL_IOCTL_ELEM_REMOVE, &id[i]);
    free(id);
    return there < 0 ? there : 0;
}
