// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which datagrams first fragments were seen of, so that the later ones go their way.
 *
 * A datagram is charged to the VM or endpoint by whose port its first fragment came in. Whoever
 * passes a first fragment on to a VM of a chain makes an entry for that VM, which says who is
 * charged and nothing else: so a flood through a chain is not charged to the chain's VMs. A VM is
 * charged for what it sends and was not passed.
 *
 * Nobody has more than HS_DATAGRAMS_EACH, nor more than HS_SHARE times what is free. Whoever has
 * as many loses the oldest of its own for each new one, and nobody else does. Every VM's entries
 * have places, in the order in which they came. */
#ifndef HS_DATAGRAMS_BPF_H
#define HS_DATAGRAMS_BPF_H

#include "switch/shares.bpf.h"

enum { HS_MAKE_WAY = 8 }; /* the places that are looked at for an entry that makes way */

struct hs_place {
    __u32 vm, at; /* at: modulo HS_DATAGRAMS_EACH */
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_DATAGRAMS_MAX);
    __type(key, struct hs_place);
    __type(value, struct hs_datagram);
} places SEC(".maps");

/* Forget a VM's oldest datagram. Its entry may be gone: it was too old (hs_sweep_datagram). */
HS_GLOBAL int hs_forget_oldest(__u32 vm) {
    struct hs_entries *own = bpf_map_lookup_elem(&shares, &vm);
    struct hs_place place = {.vm = vm};
    struct hs_datagram *key;
    struct hs_first *known;
    __u32 at;

    if (!own)
        return 0;
    at = __sync_fetch_and_add(&own->oldest, 1);
    place.at = at % HS_DATAGRAMS_EACH;
    key = bpf_map_lookup_elem(&places, &place);
    known = key ? bpf_map_lookup_elem(&datagrams, key) : 0;
    if (known && known->charged == vm && known->place == at &&
        bpf_map_delete_elem(&datagrams, key) == 0)
        hs_give(vm, HS_OF_DATAGRAMS);
    bpf_map_delete_elem(&places, &place);
    return 0;
}

/* Put a datagram that is not known, on the account of `first`. Returns whether there was room. */
static __noinline int hs_new_datagram(const struct hs_datagram *key, struct hs_first *first) {
    struct hs_place place = {.vm = first->charged};
    struct hs_entries *own = bpf_map_lookup_elem(&shares, &place.vm);
    int may = 0;

    if (!own)
        return 0;
    for (int i = 0; i < HS_MAKE_WAY && !may; i++) {
        /* Two at once may forget one that is yet to come. */
        __s32 places_used = (__s32)(own->next - own->oldest);

        may = places_used < HS_DATAGRAMS_EACH && hs_take(place.vm, HS_OF_DATAGRAMS, HS_SHARE);
        if (!may && places_used > 0)
            hs_forget_oldest(place.vm);
    }
    if (!may)
        return 0;
    first->place = __sync_fetch_and_add(&own->next, 1);
    place.at = first->place % HS_DATAGRAMS_EACH;
    if (bpf_map_update_elem(&places, &place, key, BPF_ANY) == 0 &&
        bpf_map_update_elem(&datagrams, key, first, BPF_NOEXIST) == 0)
        return 1;
    hs_give(place.vm, HS_OF_DATAGRAMS);
    return 0;
}

/* Who is charged for the datagram of the packet in hand, at the VM whose it is there. */
static __always_inline __u16 hs_charged(const struct hs_packet *p, const struct hs_datagram *key) {
    struct hs_first *known = bpf_map_lookup_elem(&datagrams, key);

    return known ? known->charged : p->key.vm;
}

/* Remember a datagram, anew if it is known. Returns whether there was room. */
static __noinline int hs_put_datagram(const struct hs_datagram *key, struct hs_first *first) {
    struct hs_first *known = bpf_map_lookup_elem(&datagrams, key);

    if (known) {
        first->charged = known->charged;
        first->place = known->place;
        if (bpf_map_update_elem(&datagrams, key, first, BPF_EXIST) == 0)
            return 1;
    }
    return hs_new_datagram(key, first); /* or it was forgotten meanwhile */
}

/* Remember what the first fragment in hand tells of its datagram. Returns whether there was room.
 */
HS_GLOBAL int hs_remember(void) {
    struct hs_packet *p = hs_packet();
    struct hs_datagram key;
    struct hs_first first;

    if (!p)
        return 0;
    hs_first(p, &key, &first);
    first.charged = p->key.vm;
    return hs_put_datagram(&key, &first);
}

/* The first fragment in hand goes on to another VM: that one is not charged for it. Returns whether
 * there was room; without, it must not go on, or that VM would be charged. */
HS_GLOBAL int hs_pass_on(__u32 to) {
    struct hs_packet *p = hs_packet();
    struct hs_datagram key;
    struct hs_first first;

    if (!p)
        return 0;
    hs_first(p, &key, &first);
    first.told = 0;
    first.charged = hs_charged(p, &key);
    key.vm = to;
    return bpf_map_lookup_elem(&datagrams, &key) ? 1 : hs_new_datagram(&key, &first);
}

/* A fragment whose ports are not known goes on to another VM, which is not to know more. Returns
 * whether there was room. */
HS_GLOBAL int hs_pass_on_unknown(__u32 to) {
    struct hs_packet *p = hs_packet();
    struct hs_datagram key;
    struct hs_first none;

    if (!p)
        return 0;
    hs_first(p, &key, &none);
    key.vlan |= HS_DONT_KNOW;
    none.charged = hs_charged(p, &key);
    key.vm = to;
    return hs_put_datagram(&key, &none);
}

#endif
