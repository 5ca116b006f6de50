// SPDX-License-Identifier: Apache-2.0
/* See input/clients.h. This file: bpf(2), without libbpf. */
#define _GNU_SOURCE
#include "input/clients.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ask(int prog, int fd, int also) {
    uint64_t arguments[2] = {(uint64_t)fd, (uint64_t)also}; /* -1 is nobody's */
    union bpf_attr attr;
    int value;

    if (prog < 0)
        return -EOPNOTSUPP;
    memset(&attr, 0, sizeof(attr));
    attr.test.prog_fd = (uint32_t)prog;
    attr.test.ctx_in = (uint64_t)(uintptr_t)arguments;
    attr.test.ctx_size_in = sizeof(arguments);
    if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)) < 0)
        return -errno;
    value = (int)attr.test.retval;
    return value < 0 ? -ENODATA : value;
}

int hs_clients_others(const struct hs_clients *clients, int fd, int also) {
    return ask(clients->others, fd, also);
}

int hs_clients_waiting(const struct hs_clients *clients, int fd) {
    return ask(clients->waiting, fd, -1);
}
