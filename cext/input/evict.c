// SPDX-License-Identifier: Apache-2.0
/* See input/evict.h. This file: one look at the descriptors of every process. */
#define _GNU_SOURCE
#include "input/evict.h"

#include <dirent.h>
#include <errno.h>
#include <linux/input.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_one(const uint64_t *devices, uint32_t n, const struct stat *st) {
    for (uint32_t i = 0; i < n && S_ISCHR(st->st_mode); i++)
        if (devices[i] == st->st_rdev)
            return true;
    return false;
}

/* The descriptor of another process, and what it is now: it may be another file by now. */
static int revoke_fd(int pidfd, int number, const uint64_t *devices, uint32_t n) {
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0), revoked = 0;
    struct stat st;

    if (fd < 0)
        return 0;
    if (fstat(fd, &st) == 0 && is_one(devices, n, &st) && ioctl(fd, EVIOCREVOKE, 0) == 0)
        revoked = 1;
    close(fd);
    return revoked;
}

static int evict(int pid, const uint64_t *devices, uint32_t n) {
    int revoked = 0, pidfd = -1;
    struct dirent *entry;
    char path[64];
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    dir = opendir(path);
    if (!dir)
        return 0; /* it has ended */
    while ((entry = readdir(dir))) {
        struct stat st;

        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0 ||
            !is_one(devices, n, &st))
            continue;
        if (pidfd < 0)
            pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd >= 0)
            revoked += revoke_fd(pidfd, atoi(entry->d_name), devices, n);
    }
    if (pidfd >= 0)
        close(pidfd);
    closedir(dir);
    return revoked;
}

int hs_evict(const uint64_t *devices, uint32_t n) {
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    int revoked = 0;

    if (!processes)
        return -errno;
    while ((entry = readdir(processes))) {
        int pid = atoi(entry->d_name);

        if (pid > 0 && pid != getpid())
            revoked += evict(pid, devices, n);
    }
    closedir(processes);
    return revoked;
}
