// SPDX-License-Identifier: Apache-2.0
/* See bpf/log.h. This file: the print function that libbpf calls, and the buffer of each thread
 * that it fills. */
#include "bpf/log.h"

#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP 8192

static _Thread_local char kept[KEEP];
static _Thread_local size_t used;

static int keep(enum libbpf_print_level level, const char *format, va_list args) {
    va_list again;
    char *text;
    size_t n;
    int length;

    if (level == LIBBPF_DEBUG)
        return 0;
    va_copy(again, args);
    length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0)
        return length;
    text = malloc((size_t)length + 1);
    if (!text)
        return 0;
    vsnprintf(text, (size_t)length + 1, format, args);
    n = (size_t)length < KEEP ? (size_t)length : KEEP;
    if (used + n > KEEP) { /* the newest matter: the verifier's verdict comes last */
        size_t drop = used + n - KEEP;
        memmove(kept, kept + drop, used - drop);
        used -= drop;
    }
    memcpy(kept + used, text + ((size_t)length - n), n);
    used += n;
    free(text);
    return length;
}

void hs_bpf_capture_log(void) {
    libbpf_set_print(keep);
}

size_t hs_bpf_take_log(char *buf, size_t size) {
    size_t n = used < size ? used : size - 1;

    memcpy(buf, kept, n);
    buf[n] = '\0';
    used = 0;
    return n;
}
