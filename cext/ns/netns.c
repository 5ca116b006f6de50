// SPDX-License-Identifier: Apache-2.0
/* See ns/netns.h. This file: the way there and back, and a new namespace. */
#define _GNU_SOURCE
#include "ns/netns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

/* A descriptor of the namespace that the thread is in, or a negative errno. */
static int here(void) {
    int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int hs_netns_enter(int netns_fd) {
    int ret, home = here();

    if (home >= 0 && setns(netns_fd, CLONE_NEWNET) < 0) {
        ret = -errno;
        close(home);
        return ret;
    }
    return home;
}

void hs_netns_leave(int home) {
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
    close(home);
}

int hs_netns_new(void) {
    int ret, home = here();

    if (home < 0)
        return home;
    if (unshare(CLONE_NEWNET) < 0) {
        ret = -errno;
        close(home);
        return ret;
    }
    ret = here();
    hs_netns_leave(home);
    return ret;
}
