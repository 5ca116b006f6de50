// SPDX-License-Identifier: Apache-2.0
/* What libbpf and the verifier say, kept for the error message instead of on stderr. */
#ifndef HS_BPF_LOG_H
#define HS_BPF_LOG_H
#include <stddef.h>

/* From now on libbpf's warnings go into a buffer (per thread; the newest 8 KiB). Idempotent. */
void hs_bpf_capture_log(void);

/* Copy what was kept into buf (NUL-terminated, truncated to size), empty it, return its length. */
size_t hs_bpf_take_log(char *buf, size_t size);

#endif
