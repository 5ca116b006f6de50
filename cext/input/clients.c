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

/* given: n numbers, the first one a descriptor; what is missing is -1, a descriptor of nobody's. */
static int ask(int prog, const int32_t *given, uint32_t n) {
    uint64_t arguments[HS_CLIENTS_KNOWN];
    union bpf_attr attr;
    int value;

    if (prog < 0)
        return -EOPNOTSUPP;
    if (n > HS_CLIENTS_KNOWN)
        return -E2BIG;
    for (uint32_t i = 0; i < HS_CLIENTS_KNOWN; i++)
        arguments[i] = i < n ? (uint64_t)given[i] : (uint64_t)-1;
    memset(&attr, 0, sizeof(attr));
    attr.test.prog_fd = (uint32_t)prog;
    attr.test.ctx_in = (uint64_t)(uintptr_t)arguments;
    attr.test.ctx_size_in = sizeof(arguments);
    if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)) < 0)
        return -errno;
    value = (int)attr.test.retval;
    return value < 0 ? -ENODATA : value;
}

int hs_clients_others(const struct hs_clients *clients, const int32_t *known, uint32_t n) {
    return ask(clients->others, known, n);
}

int hs_clients_waiting(const struct hs_clients *clients, int fd) {
    return ask(clients->waiting, &fd, 1);
}

int hs_clients_place(const struct hs_clients *clients, int fd) {
    return ask(clients->place, &fd, 1);
}

int hs_clients_before(const struct hs_clients *clients, int fd, int place) {
    const int32_t given[2] = {fd, place};

    return ask(clients->before, given, 2);
}
