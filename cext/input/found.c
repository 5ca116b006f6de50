// SPDX-License-Identifier: Apache-2.0
/* See input/found.h. This file: devices, and sockets in sockets. */
#define _GNU_SOURCE
#include "input/found.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH 6      /* sockets inside sockets: the kernel allows four */
#define MESSAGES 512 /* looked at in one queue */
#define SCM_MAX 253  /* descriptors of one message: the kernel's limit */

int64_t hs_found_spent(struct hs_revoke_job *job) {
    return hs_spent_step(&job->spent, hs_own_ns());
}

bool hs_found_late(struct hs_revoke_job *job) {
    int64_t now = hs_found_spent(job);

    job->late = job->late || now > job->until || now > job->last;
    return job->late;
}

uint32_t hs_found_device(const struct hs_revoke_job *job, const struct stat *st) {
    uint32_t i = 0;

    if (!S_ISCHR(st->st_mode))
        return job->n;
    while (i < job->n && job->devices[i] != st->st_rdev)
        i++;
    return i;
}

bool hs_found_revoke(struct hs_revoke_job *job, int fd) {
    int version;

    /* ENODEV if it was revoked before: then it does not count again */
    if (ioctl(fd, EVIOCGVERSION, &version) < 0 || ioctl(fd, EVIOCREVOKE, 0) < 0)
        return false;
    job->count->revoked++;
    job->abroad += !job->at_home;
    hs_keeper_add(job->keeper, fd);
    return true;
}

bool hs_found_reader(struct hs_files *readers, int fd, uint32_t device) {
    int version, self = getpid();

    if (readers->n == HS_READERS || ioctl(fd, EVIOCGVERSION, &version) < 0)
        return false;
    for (uint32_t i = 0; i < readers->n; i++)
        if (readers->device[i] == device &&
            syscall(SYS_kcmp, self, self, KCMP_FILE, fd, readers->fd[i]) == 0)
            return false;
    readers->device[readers->n] = device;
    readers->fd[readers->n++] = fd;
    return true;
}

/* Whether it is put aside. Those of a loser at rest are, until the pass is over: no event reaches
 * them any more (the mask of types lets none through). */
static bool put_aside(struct hs_revoke_job *job, int fd, uint32_t device) {
    struct input_mask none = {.type = EV_SYN};

    if (job->mode == HS_NOTE_READERS)
        return hs_found_reader(job->aside, fd, device);
    if (job->mode == HS_REVOKE || job->aside->n == HS_READERS || !job->at_home ||
        ioctl(fd, EVIOCSMASK, &none) < 0)
        return false;
    job->aside->device[job->aside->n] = device;
    job->aside->fd[job->aside->n++] = fd;
    return true;
}

unsigned hs_found_waiting(const char *table, int fd) {
    char path[80], line[128];
    unsigned count = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%sinfo/%d", table, fd);
    file = fopen(path, "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "scm_fds: %u", &count) == 1)
            break;
    fclose(file);
    return count;
}

/* Every descriptor that waits in a UNIX socket's queue, without taking it out of it. */
static void look_into(struct hs_revoke_job *job, int sock, int depth) {
    struct pollfd queue = {.fd = sock, .events = POLLIN};
    unsigned waiting, seen = 0;
    int offset = 0, was = -1;
    socklen_t size = sizeof(was);

    if (poll(&queue, 1, 0) <= 0 || !(queue.revents & POLLIN))
        return; /* nothing waits in it: this is quicker than what follows */

    hs_found_spent(job); /* a queue is a step */
    waiting = hs_found_waiting("/proc/self/fd", sock);
    if (waiting == 0)
        return;
    if (depth > DEPTH || getsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &was, &size) < 0 ||
        setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0) {
        job->count->hidden += waiting;
        return;
    }
    for (unsigned i = 0; i < MESSAGES && seen < waiting && job->looks > 0; i++) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(SCM_MAX * sizeof(int))];
        } control;
        static char bytes[65536]; /* of no interest; one caller at a time */
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};

        hs_found_spent(job); /* so is a message */
        if (recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
            break;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                continue;
            for (size_t k = 0; k < n; k++) {
                int fd;

                memcpy(&fd, CMSG_DATA(c) + k * sizeof(fd), sizeof(fd));
                if (job->looks == 0) {
                    close(fd);
                    continue;
                }
                job->looks--;
                seen++;
                hs_found(job, fd, depth);
            }
        }
    }
    setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &was, sizeof(was));
    if (seen < waiting)
        job->count->hidden += waiting - seen;
}

void hs_found(struct hs_revoke_job *job, int fd, int depth) {
    struct stat st;

    if (fstat(fd, &st) == 0) {
        uint32_t device = hs_found_device(job, &st);

        if (device < job->n && (put_aside(job, fd, device) ||
                                (job->mode != HS_NOTE_READERS && hs_found_revoke(job, fd))))
            return;
        if (S_ISSOCK(st.st_mode))
            look_into(job, fd, depth + 1);
    }
    close(fd);
}
