// SPDX-License-Identifier: Apache-2.0
/* An evdev device brought to rest by injected events, and its node made; the contract is in
 * input/evnode.h. */
#define _GNU_SOURCE
#include "input/evnode.h"
#include "input/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FULL_GAIN 0xffff
#define TRIES 16 /* at a name that somebody takes again and again */
/* Enough for a release of every key there is, and an end of everything else. */
#define ROOM (KEY_CNT + 2 * HS_SLOTS + SND_CNT + 8)

struct frames {
    unsigned n;
    struct input_event ev[ROOM];
};

static void put(struct frames *f, unsigned type, unsigned code, int32_t value) {
    hs_put(f->ev, &f->n, ROOM, type, code, value);
}

static int lift_keys(struct frames *f, int fd, const uint16_t *keep, uint32_t n) {
    uint8_t keys[HS_KEY_BYTES] = {0};
    int released = 0;

    if (ioctl(fd, EVIOCGKEY(sizeof(keys)), keys) < 0)
        return -errno;
    for (unsigned code = 0; code < KEY_CNT; code++) {
        bool kept = !hs_bit(keys, code);

        for (uint32_t i = 0; i < n && !kept; i++)
            kept = keep[i] == code;
        if (kept)
            continue;
        put(f, EV_KEY, code, 0);
        released++;
    }
    return released;
}

static int lift_contacts(struct frames *f, int fd) {
    int32_t ids[HS_SLOTS];
    struct input_absinfo slot;
    int lifted = 0;

    hs_slots(fd, ids);
    for (int i = 0; i < HS_SLOTS; i++)
        if (ids[i] >= 0) {
            put(f, EV_ABS, ABS_MT_SLOT, i);
            put(f, EV_ABS, ABS_MT_TRACKING_ID, -1);
            lifted++;
        }
    if (lifted && ioctl(fd, EVIOCGABS(ABS_MT_SLOT), &slot) >= 0)
        put(f, EV_ABS, ABS_MT_SLOT, slot.value);
    return lifted;
}

static void silence(struct frames *f, int fd) {
    uint8_t sounds[(SND_CNT + 7) / 8] = {0}, effects[(FF_CNT + 7) / 8] = {0};

    if (ioctl(fd, EVIOCGSND(sizeof(sounds)), sounds) >= 0)
        for (unsigned code = 0; code < SND_CNT; code++)
            if (hs_bit(sounds, code))
                put(f, EV_SND, code, 0);
    if (ioctl(fd, EVIOCGBIT(EV_FF, sizeof(effects)), effects) < 0)
        return;
    if (hs_bit(effects, FF_GAIN))
        put(f, EV_FF, FF_GAIN, FULL_GAIN);
    if (hs_bit(effects, FF_AUTOCENTER))
        put(f, EV_FF, FF_AUTOCENTER, 0);
}

int hs_evnode_still(int fd, const uint16_t *keep, uint32_t n, int keys) {
    struct frames f;
    int released;
    ssize_t size;

    f.n = 0;
    released = lift_keys(&f, fd, keep, n);
    if (released < 0)
        return released;
    if (!keys) {
        released += lift_contacts(&f, fd);
        silence(&f, fd);
    }
    if (f.n == 0)
        return 0;
    put(&f, EV_SYN, SYN_REPORT, 0);
    size = (ssize_t)(f.n * sizeof(f.ev[0]));
    if (write(fd, f.ev, (size_t)size) != size)
        return errno == ENODEV ? -ENODEV : -EIO;
    return released;
}

int hs_evnode_make(int directory, const char *name, uint64_t rdev, uint32_t owner, uint32_t group) {
    mode_t before;
    int ret = 0;

    unlinkat(directory, name, 0); /* whatever is there; what cannot go fails the next step */
    before = umask(0);
    if (mknodat(directory, name, S_IFCHR | 0660, rdev) < 0)
        ret = -errno;
    umask(before);
    if (ret == 0 && fchownat(directory, name, owner, group, AT_SYMLINK_NOFOLLOW) < 0)
        ret = -errno;
    return ret;
}

int hs_evnode_hold(int directory, const char *name, uint64_t rdev) {
    int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == rdev)
        return fd;
    close(fd);
    return -ESTALE;
}

int hs_evnode_put(int node, int directory, const char *name) {
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", node); /* AT_EMPTY_PATH takes a capability */
    for (int i = 0; i < TRIES; i++) {
        if (linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW) == 0)
            return 0;
        if (errno != EEXIST || unlinkat(directory, name, 0) < 0)
            break;
    }
    return -errno;
}
