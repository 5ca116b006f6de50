// SPDX-License-Identifier: Apache-2.0
/* See vm/fence.h. This file: a short-lived process that makes the namespaces and holds them while
 * its caller writes the id maps, which only a process outside may do, and opens them. */
#define _GNU_SOURCE
#include "vm/fence.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (16 * 1024)
#define MAP_SIZE 4096 /* bytes of an id map: at most one page (user_namespaces(7)) */

/* The holder shares our memory, so it does nothing but wait to be killed. */
static int hold(void *unused) {
    (void)unused;
    for (;;)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    return 0;
}

/* Our own ids, one to one. `ours` is the map of our own namespace (one extent a line: first id
 * inside, first id outside, count); its ids inside are the ones that a child's map may name. */
static int identity(const char *ours, char *map, size_t size) {
    size_t at = 0;

    while (*ours) {
        uint64_t first, count;
        int read = 0;

        if (sscanf(ours, "%" SCNu64 " %*u %" SCNu64 "%n", &first, &count, &read) != 2)
            break;
        at += (size_t)snprintf(map + at, size - at, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", first,
                               first, count);
        if (at >= size)
            return -E2BIG;
        ours += read;
        ours += strspn(ours, "\n ");
    }
    return at ? (int)at : -EINVAL;
}

static int write_map(pid_t pid, const char *name, uint32_t base) {
    char path[64], ours[MAP_SIZE], map[MAP_SIZE];
    ssize_t got;
    int fd, length, ret = 0;

    snprintf(path, sizeof(path), "/proc/self/%s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    got = read(fd, ours, sizeof(ours) - 1);
    ret = got < 0 ? -errno : 0;
    close(fd);
    if (ret < 0)
        return ret;
    ours[got] = '\0';
    length = base ? snprintf(map, sizeof(map), "0 %" PRIu32 " %d\n", base, HS_FENCE_IDS)
                  : identity(ours, map, sizeof(map));
    if (length < 0)
        return length;
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, map, (size_t)length) != length)
        ret = errno ? -errno : -EIO;
    close(fd);
    return ret;
}

static int open_namespace(pid_t pid, const char *name) {
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int hold_user(pid_t pid, uint32_t base, struct hs_fence *fence) {
    int ret = write_map(pid, "uid_map", base);

    if (ret == 0)
        ret = write_map(pid, "gid_map", base);
    if (ret == 0)
        ret = fence->user_fd = open_namespace(pid, "user");
    return ret;
}

/* The thread becomes user `base` and keeps its capabilities. Not by libc, which would change every
 * thread. */
static int become(uint32_t base) {
    if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 ||
        syscall(SYS_setresgid, -1, base, -1) < 0 || syscall(SYS_setresuid, -1, base, -1) < 0)
        return -errno;
    return 0;
}

int hs_fence_make(struct hs_fence *fence, uint32_t base) {
    const int flags = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_VM | CLONE_FILES;
    char stack[STACK_SIZE] __attribute__((aligned(16)));
    int ret;
    pid_t pid;

    *fence = (struct hs_fence){-1, -1, -1};
    ret = base ? become(base) : 0;
    if (ret < 0)
        return ret;
    pid = clone(hold, stack + sizeof(stack), flags, NULL); /* no signal to us when it ends */
    if (pid < 0)
        return -errno;
    ret = hold_user(pid, base, fence);
    if (ret >= 0)
        ret = fence->net_fd = open_namespace(pid, "net");
    if (ret >= 0)
        ret = fence->ipc_fd = open_namespace(pid, "ipc");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, __WCLONE); /* `stack` is the holder's until here */
    if (ret < 0)
        hs_fence_close(fence);
    return ret < 0 ? ret : 0;
}

void hs_fence_close(struct hs_fence *fence) {
    int *fds[] = {&fence->user_fd, &fence->net_fd, &fence->ipc_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}
