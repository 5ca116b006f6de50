// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Frames that speak of neighbours: ARP, IPv6 neighbour and router discovery. They are bridged, so
 * whoever lies in them deceives the others. What the host file says is known here, and who speaks
 * against it is not passed on:
 *   - an address that it gives to another VM or endpoint is that one's;
 *   - who is no router by it neither advertises nor redirects. An uplink may: the routers of its
 *     network are behind it.
 * Addresses that it gives to nobody are whose they are said to be: they may move. What is in a
 * VLAN is a network of its own, of which the host file knows nothing. */
#ifndef HS_NEIGHBOURS_BPF_H
#define HS_NEIGHBOURS_BPF_H

#include "switch/decide.bpf.h"
#include "switch/unfinished.bpf.h"

enum {
    HS_ASKS_ROUTERS = 133,
    HS_ADVERTISES = 134,
    HS_SOLICITS = 135,
    HS_IS_THERE = 136,
    HS_REDIRECTS = 137,
};

/* Whether the host file gives an address to another VM than the packet in hand came from. */
static __always_inline int hs_anothers(const struct hs_address *address, __u32 vm) {
    __u32 *owner = bpf_map_lookup_elem(&owners, address);

    return owner && hs_owner_for(*owner, vm) != vm;
}

/* Whether an ARP frame says that its sender has an address which is another's. */
static __noinline int hs_lies_in_arp(struct __sk_buff *skb, __u32 vm) {
    struct hs_address address = {.family = 4};
    __u32 at = 12;
    __u16 type;

    for (int i = 0; i <= HS_TAGS; i++) {
        if (bpf_skb_load_bytes(skb, at, &type, 2) < 0 || !hs_is_tag(type))
            break;
        at += 4;
    }
    if (type == bpf_htons(ETH_P_ARP) && hs_is_partial(skb))
        return 1;
    if (type != bpf_htons(ETH_P_ARP) || bpf_skb_load_bytes(skb, at + 16, address.address, 4) < 0)
        return 0;
    return hs_anothers(&address, vm);
}

/* Whether the frame in hand, which is none of a flow, speaks of neighbours against the host file.
 * Nobody's kernel leaves the checksum of such a frame unfinished (switch/unfinished.bpf.h): it
 * would be written over what was looked at here. */
HS_GLOBAL int hs_deceives(struct __sk_buff *skb) {
    struct hs_packet *p = hs_packet();
    struct hs_address address = {.family = 6};
    struct hs_vm *info;
    __u8 type;
    int asks;

    if (!p || p->key.tuple.vlan)
        return 0;
    if (!p->key.tuple.family)
        return hs_lies_in_arp(skb, p->key.vm);
    if (p->key.tuple.proto != IPPROTO_ICMPV6)
        return 0;
    if (hs_is_partial(skb))
        return 1;
    if (!p->l4 || bpf_skb_load_bytes(skb, p->l4, &type, 1) < 0)
        return 0;
    if (type < HS_ASKS_ROUTERS || type > HS_REDIRECTS)
        return 0;
    if (p->fragment) /* the rest is not here; nobody may send these in parts (RFC 6980) */
        return 1;
    if (type == HS_ADVERTISES || type == HS_REDIRECTS) {
        info = bpf_map_lookup_elem(&vms, &p->key.vm);
        return !info || !(info->flags & HS_VM_ROUTER);
    }
    asks = type == HS_SOLICITS && hs_another(p->key.tuple.src, address.address);
    __builtin_memcpy(address.address, p->key.tuple.src, 16);
    if (hs_anothers(&address, p->key.vm))
        return 1;
    if (type == HS_ASKS_ROUTERS || asks) /* it speaks of its own address alone */
        return 0;
    return hs_load(skb, p, p->l4 + 8, address.address, 16) == 0 && hs_anothers(&address, p->key.vm);
}

#endif
