// SPDX-License-Identifier: Apache-2.0
/* See ns/sysctl.h. This file: the files of /proc/sys, written in the other namespace. */
#include "ns/sysctl.h"
#include "ns/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int put(const char *path, const char *value) {
    size_t length = strlen(value);
    int fd, ret = 0;

    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, value, length) != (ssize_t)length)
        ret = -errno;
    close(fd);
    return ret;
}

int hs_sysctl(int netns_fd, const char *const *paths, const char *const *values, size_t count,
              size_t *failed) {
    int ret = 0, home = hs_netns_enter(netns_fd);

    *failed = count;
    if (home < 0)
        return home;
    for (size_t i = 0; i < count; i++) {
        ret = put(paths[i], values[i]);
        if (ret < 0) {
            *failed = i;
            break;
        }
    }
    hs_netns_leave(home);
    return ret;
}
