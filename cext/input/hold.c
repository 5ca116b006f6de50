// SPDX-License-Identifier: Apache-2.0
/* See input/hold.h. This file: the cgroup's control files. */
#define _GNU_SOURCE
#include "input/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whether a cgroup's control file, read anew, has this text in it. */
static bool says(int fd, const char *text) {
    char buffer[256];
    ssize_t size = pread(fd, buffer, sizeof(buffer) - 1, 0);

    buffer[size > 0 ? size : 0] = 0;
    return strstr(buffer, text) != NULL;
}

int hs_hold_begin(struct hs_hold *hold, const char *cgroup) {
    int ret;

    hold->control = -1;
    hold->group = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (hold->group < 0)
        return errno == ENOENT ? 0 : -errno;
    hold->control = openat(hold->group, "cgroup.freeze", O_RDWR | O_CLOEXEC);
    if (hold->control < 0)
        goto gone;
    if (says(hold->control, "1")) {
        close(hold->control);
        hold->control = -1;
    } else if (write(hold->control, "1", 1) < 0)
        goto gone;
    return 0;
gone:
    ret = errno == ENOENT || errno == ENODEV ? 0 : -errno; /* it goes in this moment */
    if (hold->control >= 0)
        close(hold->control);
    close(hold->group);
    *hold = (struct hs_hold){-1, -1};
    return ret;
}

int hs_hold_end(struct hs_hold *hold) {
    int ret = 0;

    if (hold->control >= 0) {
        if (write(hold->control, "0", 1) < 0 && errno != ENODEV)
            ret = -errno;
        close(hold->control);
    }
    if (hold->group >= 0)
        close(hold->group);
    *hold = (struct hs_hold){-1, -1};
    return ret;
}

bool hs_hold_rests(const struct hs_hold *hold, unsigned ms) {
    struct pollfd events = {.events = POLLPRI};
    int64_t deadline = now_ms() + ms, left;
    bool rest;

    if (hold->group < 0)
        return true;
    events.fd = openat(hold->group, "cgroup.events", O_RDONLY | O_CLOEXEC);
    if (events.fd < 0)
        return errno == ENOENT || errno == ENODEV;
    while (!(rest = says(events.fd, "frozen 1")) && (left = deadline - now_ms()) > 0)
        poll(&events, 1, (int)left);
    close(events.fd);
    return rest;
}

bool hs_frozen(const char *cgroup) {
    char path[PATH_MAX];
    bool frozen;
    int fd;

    snprintf(path, sizeof(path), "%s/cgroup.freeze", cgroup);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    frozen = fd >= 0 && says(fd, "1");
    if (fd >= 0)
        close(fd);
    return frozen;
}
