// SPDX-License-Identifier: Apache-2.0
/* See vm/spawn.h. This file: the mount namespace that every VM starts from. */
#define _GNU_SOURCE
#include "vm/spawn.h"
#include "vm/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* Take away what is mounted on `path`, however often. What cannot be taken away is covered by the
 * VM's own mount. */
static void uncover(const char *path) {
    for (int i = 0; i < 16 && umount2(path, MNT_DETACH) == 0; i++)
        ;
}

static void *make_base(void *arg) {
    static const char *const covered[] = {"/run/netns", "/run", "/dev", "/proc", "/sys"};
    int *ret = arg, fd;

    if (unshare(CLONE_FS | CLONE_NEWNS) < 0) {
        *ret = -errno;
        return NULL;
    }
    fd = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        *ret = -errno;
        return NULL;
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        *ret = -errno;
        close(fd);
        return NULL;
    }
    for (size_t i = 0; i < LENGTH(covered); i++)
        uncover(covered[i]);
    *ret = fd;
    return NULL;
}

int hs_mount_base(void) {
    int fd, ret = hs_in_thread(make_base, &fd, 0, NULL);

    return ret < 0 ? ret : fd;
}
