// SPDX-License-Identifier: Apache-2.0
/* See bpf/run.h. This file: libbpf's two calls, with plain arguments. */
#include "bpf/run.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stddef.h>

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
