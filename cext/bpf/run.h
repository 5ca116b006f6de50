// SPDX-License-Identifier: Apache-2.0
/* Running a BPF program on demand, walking over sockets, and reading a hash map by the page
 * (bpf(2)). */
#ifndef HS_BPF_RUN_H
#define HS_BPF_RUN_H
#include <stdint.h>

/* Run a program once (BPF_PROG_TEST_RUN). ctx is read and written if ctx_size > 0; `in` is a
 * frame for programs on packets, `out` takes it back. Returns the program's value, which must be
 * one that is not negative, or a negative errno. */
int hs_bpf_run(int prog_fd, void *ctx, uint32_t ctx_size, const void *in, uint32_t in_size,
               void *out, uint32_t *out_size);

/* Read up to *count entries of a hash map. cursor: 8 bytes, kept between calls; first: 1 for the
 * first page. Returns 1 if more follow, 0 at the end, or a negative errno (ENOSPC: a bucket
 * holds more than *count). An entry that comes or goes meanwhile may be missed. */
long hs_bpf_page(int map_fd, void *cursor, int first, void *keys, void *values, uint32_t *count);

/* Run a program of the kind iter/bpf_sk_storage_map once for each entry of such a map. Returns 0 or
 * a negative errno. */
int hs_bpf_walk(int prog_fd, int map_fd);

#endif
