// SPDX-License-Identifier: Apache-2.0
/* See vm/tree.h. This file: the one system call, which libc does not wrap. */
#define _GNU_SOURCE /* O_PATH */
#include "vm/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TRIES = 16 };

int hs_tree_open(int directory, const char *path, int flags, unsigned mode, int how) {
    struct open_how way = {
        .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
        .mode = mode,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd;
    int tries = TRIES;

    if (!(flags & O_PATH))
        way.flags |= O_NONBLOCK | O_NOCTTY;
    if (!(how & HS_TREE_ACROSS))
        way.resolve |= RESOLVE_NO_XDEV;
    do
        fd = syscall(SYS_openat2, directory, path, &way, sizeof(way));
    while (fd < 0 && errno == EAGAIN && --tries); /* something was renamed: openat2(2) */
    return fd < 0 ? -errno : (int)fd;
}
