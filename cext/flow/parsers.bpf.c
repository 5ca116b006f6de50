// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The kernel's parsers of frames, each as a program of its own: for tests that hold them against
 * each other and against those of user space. Run by BPF_PROG_TEST_RUN, attached nowhere. */
#include "flow/packet.bpf.h"
#include "flow/told.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_told);
} told SEC(".maps");

static __always_inline int hs_tell(const struct hs_packet *p, enum hs_kind kind) {
    struct hs_told *out;
    __u32 zero = 0;

    out = bpf_map_lookup_elem(&told, &zero);
    if (!out)
        return 1;
    out->tuple = p->key.tuple;
    out->kind = kind;
    out->l4 = p->l4;
    out->end = p->end;
    out->id = p->id;
    out->tcp_flags = p->tcp_flags;
    out->dscp = p->dscp;
    out->error = p->error;
    out->fragment = p->fragment;
    out->group = p->group;
    out->unknown = p->unknown;
    return 0;
}

/* 0: told; 1: hs_parse has to look. */
SEC("tc")
int quick(struct __sk_buff *skb) {
    struct hs_packet *p = hs_packet();

    if (!p || !hs_quick(skb, p, 1))
        return 1;
    return hs_tell(p, HS_FLOW);
}

SEC("tc")
int parse(struct __sk_buff *skb) {
    struct hs_packet *p = hs_packet();
    enum hs_kind kind;

    if (!p)
        return 1;
    __builtin_memset(p, 0, sizeof(*p));
    p->key.vm = 1;
    kind = hs_parse(skb, p, HS_ON | HS_ON_VLAN | HS_ON_ETHERTYPE, 1);
    if (p->fragment == 1 && (kind == HS_FLOW || kind == HS_GROUP)) {
        struct hs_datagram key;
        struct hs_first first;

        hs_first(p, &key, &first);
        bpf_map_update_elem(&datagrams, &key, &first, BPF_ANY);
    }
    return hs_tell(p, kind);
}
