// SPDX-License-Identifier: Apache-2.0
/* See bpf/run.h. This file: libbpf's two calls, with plain arguments. */
#include "bpf/run.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

int hs_bpf_run(int prog_fd, void *ctx, uint32_t ctx_size, const void *in, uint32_t in_size,
               void *out, uint32_t *out_size) {
    LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = ctx_size ? ctx : NULL, .ctx_size_in = ctx_size,
                .data_in = in, .data_size_in = in_size, .data_out = out,
                .data_size_out = out_size ? *out_size : 0);

    if (bpf_prog_test_run_opts(prog_fd, &opts) < 0)
        return -errno;
    if (out_size)
        *out_size = opts.data_size_out;
    return (int)opts.retval;
}

long hs_bpf_page(int map_fd, void *cursor, int first, void *keys, void *values, uint32_t *count) {
    if (bpf_map_lookup_batch(map_fd, first ? NULL : cursor, cursor, keys, values, count, NULL) == 0)
        return 1;
    return errno == ENOENT ? 0 : -errno;
}

int hs_bpf_walk(int prog_fd, int map_fd) {
    union bpf_iter_link_info info = {.map.map_fd = (uint32_t)map_fd};
    LIBBPF_OPTS(bpf_link_create_opts, opts, .iter_info = &info, .iter_info_len = sizeof(info));
    int link = bpf_link_create(prog_fd, 0, BPF_TRACE_ITER, &opts), fd = -1, ret;
    ssize_t got;
    char none[64];

    if (link < 0)
        return -errno;
    fd = bpf_iter_create(link);
    if (fd < 0) {
        ret = -errno;
        goto out;
    }
    do
        got = read(fd, none, sizeof(none));
    while (got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN)));
    ret = got < 0 ? -errno : 0;
out:
    if (fd >= 0)
        close(fd);
    close(link);
    return ret;
}
