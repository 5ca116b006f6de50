// SPDX-License-Identifier: Apache-2.0
/* See bpf/btf.h. This file: one pass over the enumeration that libbpf finds. */
#include "bpf/btf.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>

long hs_btf_enum(const char *name, char *out, size_t size) {
    struct btf *btf = btf__load_vmlinux_btf();
    const struct btf_type *type;
    const struct btf_enum *member;
    size_t at = 0;
    long result;
    int id;

    if (libbpf_get_error(btf))
        return libbpf_get_error(btf);
    id = btf__find_by_name_kind(btf, name, BTF_KIND_ENUM);
    result = id;
    if (id < 0)
        goto out;
    type = btf__type_by_id(btf, (uint32_t)id);
    member = btf_enum(type);
    for (uint32_t i = 0; i < btf_vlen(type); i++, member++) {
        const char *text = btf__name_by_offset(btf, member->name_off);
        size_t room = at < size ? size - at : 0;

        at += (size_t)snprintf(room ? out + at : NULL, room, "%u %s\n", (uint32_t)member->val,
                               text ? text : "");
    }
    result = (long)at + 1;
out:
    btf__free(btf);
    return result;
}
