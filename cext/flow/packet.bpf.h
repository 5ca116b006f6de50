// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* From a frame to its flow: what the classifier and the transfer component both read.
 *
 * What a receiver's kernel takes for a packet to it is judged as that packet, whatever its frame
 * looks like. Which flow a frame belongs to must be the same answer at both, for their counts are
 * compared, and the same as that of a port (flow/parse.h) and of a packet function (flow/view.h):
 * tests/kernel/test_parsers.py holds them against each other.
 *   - IPv4 and IPv6 unicast belongs to the flow of its addresses, protocol and ports; protocols
 *     without ports, and ICMP other than echo, have ports 0. Nothing is read behind the end that
 *     the IP header names.
 *   - A unicast packet in a frame to a group is its flow's too (`group`): Linux takes it for one.
 *   - A packet to a group, in a frame to a group, belongs to no flow, but filters and mirrors may
 *     look at it (HS_GROUP). In a frame to one host it can be steered, and is its flow's.
 *   - An ICMP error belongs to the flow it is about, in the other direction, if that flow is
 *     known: so it meets the same VMs as the replies, and connection tracking there knows it. It
 *     must be to the sender of what it quotes, or a quoted flow would lend its way to any packet.
 *   - A fragment belongs to the flow of its first fragment. Who asks for the flow remembers that,
 *     by datagram and VM (switch/datagrams.bpf.h).
 *     One that comes before its first is an orphan: its addresses are known, its ports are not,
 *     nor is its protocol over IPv6, where a receiver takes that from the first fragment alone.
 *   - Priority tags (802.1Q or 802.1ad, VLAN identifier 0) are passed over, as Linux does; behind
 *     more tags than HS_TAGS nobody looks (HS_DEEP). The first VLAN identifier that is not 0 is in
 *     the flow's key, if a policy matches VLANs. A second one is an ethertype inside the first.
 *   - Other ethertypes are flows between MAC addresses, if a policy matches ethertypes.
 *   - Everything else is bridged plainly: ARP, IPv6 neighbour and router discovery, multicast
 *     listener discovery; and tagged frames and other ethertypes if no policy matches such. What
 *     only has the type of such a message, and no receiver may take for one, is its flow's. */
#ifndef HS_PACKET_BPF_H
#define HS_PACKET_BPF_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow/told.h"
#include "flow/tuple.h"

/* A function that the verifier checks by itself, once, and not for every state of every caller.
 * It must not trust its pointers to be there. */
#define HS_GLOBAL __attribute__((noinline))

enum { HS_DONT_KNOW = 1 << 15 }; /* in a datagram's key: its ports were not known here */

struct hs_packet {
    struct hs_key key; /* vm: whose interface it is on; the tuple is what hs_parse finds */
    __u8 tcp_flags;
    __u8 dscp;
    __u8 error;    /* an ICMP error; tuple is the flow it is about, turned round */
    __u8 fragment; /* 1: the first, 2: a later one */
    __u32 l4;      /* offset of the transport header, 0: none in this fragment */
    __u32 end;     /* offset of the IP packet's end */
    __u32 id;      /* of the datagram, if it is fragmented */
    __u8 group;    /* 1: the frame is to a group */
    __u8 unknown;  /* an orphan; its ports and flags are not known: 1 yet, 2 for good */
    __u8 hops;     /* IPv6's hop limit */
    __u8 pad;
};

/* The packet in hand. Not on the stack: a map's key may not be in memory that a function checked
 * by itself was handed (Linux 6.1), and each CPU has one packet in hand at a time. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct hs_packet);
} packets SEC(".maps");

static __always_inline struct hs_packet *hs_packet(void) {
    __u32 zero = 0;

    return bpf_map_lookup_elem(&packets, &zero);
}

struct hs_datagram {
    __u8 src[16], dst[16];
    __u32 id, vm;
    __u8 proto, family; /* proto: see hs_datagram_proto */
    __u16 vlan;         /* and HS_DONT_KNOW */
};

struct hs_first {
    __u64 seen; /* CLOCK_MONOTONIC_COARSE, ns */
    __u16 sport, dport;
    __u8 proto;
    __u8 told;     /* 0: nothing is known of the datagram but who is charged */
    __u16 charged; /* the VM whose share the entry is of, */
    __u32 place;   /* and which of its entries this is, as they came */
    __u32 pad;
};
_Static_assert(sizeof(struct hs_first) == 24, "no padding");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, HS_DATAGRAMS_MAX);
    __type(key, struct hs_datagram);
    __type(value, struct hs_first);
} datagrams SEC(".maps");

/* Load bytes of the packet's contents: none behind its end. */
static __always_inline int hs_load(struct __sk_buff *skb, const struct hs_packet *p, __u32 at,
                                   void *to, __u32 size) {
    return at + size > p->end ? -1 : bpf_skb_load_bytes(skb, at, to, size);
}

/* Whether two addresses of tuples differ. */
static __always_inline int hs_another(const void *one, const void *other) {
    const __u32 *a = one, *b = other;

    return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) != 0;
}

/* Whether a packet is to a group, by its address. */
static __always_inline int hs_is_to_group(const struct hs_tuple *tuple) {
    __u32 dst;

    __builtin_memcpy(&dst, tuple->dst, 4);
    if (tuple->family == 4)
        return (dst & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || dst == 0xffffffff;
    return tuple->family != 6 || tuple->dst[0] == 0xff;
}

/* The flow an ICMP error at `at` is about, turned round. 0, or -1 if it does not say. */
static __noinline int hs_inner(struct __sk_buff *skb, __u32 at, struct hs_packet *p) {
    struct hs_tuple inner __attribute__((aligned(4))) = {}; /* hs_another reads words */
    __u32 l4;

    inner.family = p->key.tuple.family;
    inner.vlan = p->key.tuple.vlan;
    if (inner.family == 4) {
        struct iphdr ip;
        if (hs_load(skb, p, at, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
            return -1;
        if (ip.frag_off & bpf_htons(0x1fff))
            return -1;
        __builtin_memcpy(inner.src, &ip.saddr, 4);
        __builtin_memcpy(inner.dst, &ip.daddr, 4);
        inner.proto = ip.protocol;
        l4 = at + ip.ihl * 4;
    } else {
        struct ipv6hdr ip;
        if (hs_load(skb, p, at, &ip, sizeof(ip)) < 0 || ip.version != 6)
            return -1;
        __builtin_memcpy(inner.src, &ip.saddr, 16);
        __builtin_memcpy(inner.dst, &ip.daddr, 16);
        inner.proto = ip.nexthdr;
        l4 = at + sizeof(ip);
    }
    if (hs_has_ports(inner.proto)) {
        __u16 ports[2];
        if (hs_load(skb, p, l4, ports, 4) < 0)
            return -1;
        inner.sport = ports[0];
        inner.dport = ports[1];
    } else if (inner.proto == IPPROTO_ICMP || inner.proto == IPPROTO_ICMPV6) {
        __u16 id;
        if (hs_load(skb, p, l4 + 4, &id, 2) < 0)
            return -1;
        inner.sport = inner.dport = id;
    }
    if (hs_another(inner.src, p->key.tuple.dst))
        return -1; /* an error goes to the sender of what it is about (RFC 1122, 4443) */
    hs_tuple_turn(&inner, &p->key.tuple);
    p->error = 1;
    return 0;
}

/* Whether ICMPv6 of a type speaks of neighbours, routers or listeners: by its hop limit, a router
 * has not sent it on (RFC 4861), or it is not to go past one (RFC 2710, RFC 3810), and to a group.
 */
static __always_inline int hs_is_discovery(const struct hs_packet *p, __u8 type) {
    if (type >= 133 && type <= 137)
        return p->hops == 255;
    return ((type >= 130 && type <= 132) || type == 143) && p->hops == 1 && p->group &&
           p->key.tuple.dst[0] == 0xff;
}

/* The transport header: ports, flags, echo identifiers. */
static __noinline enum hs_kind hs_transport(struct __sk_buff *skb, struct hs_packet *p,
                                            int follow) {
    __u8 proto = p->key.tuple.proto, head[20];

    if (proto == IPPROTO_TCP) {
        if (hs_load(skb, p, p->l4, head, 20) < 0)
            return HS_MALFORMED;
        p->tcp_flags = head[13];
    } else if (hs_has_ports(proto) || proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
        if (hs_load(skb, p, p->l4, head, 8) < 0)
            return HS_MALFORMED;
    } else {
        return HS_FLOW;
    }
    /* ICMP in IPv6, or the other way round, is no error message of anybody's. */
    follow = follow && !p->fragment && (proto == IPPROTO_ICMPV6) == (p->key.tuple.family == 6);
    if (proto == IPPROTO_ICMP) {
        if (head[0] == 8 || head[0] == 0) {
            __builtin_memcpy(&p->key.tuple.sport, head + 4, 2);
            p->key.tuple.dport = p->key.tuple.sport;
        } else if (follow && (head[0] == 3 || head[0] == 11 || head[0] == 12)) {
            hs_inner(skb, p->l4 + 8, p);
        }
    } else if (proto == IPPROTO_ICMPV6) {
        if (head[0] == 128 || head[0] == 129) {
            __builtin_memcpy(&p->key.tuple.sport, head + 4, 2);
            p->key.tuple.dport = p->key.tuple.sport;
        } else if (p->key.tuple.family == 6 && hs_is_discovery(p, head[0])) {
            return HS_PLAIN;
        } else if (follow && head[0] < 128) {
            hs_inner(skb, p->l4 + 8, p);
        }
    } else {
        __builtin_memcpy(&p->key.tuple.sport, head, 2);
        __builtin_memcpy(&p->key.tuple.dport, head + 2, 2);
    }
    return HS_FLOW;
}

static __always_inline void hs_datagram(const struct hs_packet *p, struct hs_datagram *key) {
    __builtin_memset(key, 0, sizeof(*key));
    __builtin_memcpy(key->src, p->key.tuple.src, 16);
    __builtin_memcpy(key->dst, p->key.tuple.dst, 16);
    key->vm = p->key.vm;
    key->proto = hs_datagram_proto(&p->key.tuple);
    key->family = p->key.tuple.family;
    key->vlan = p->key.tuple.vlan;
    key->id = p->id;
}

/* What is to be remembered of a datagram by its first fragment, but who is charged; and its key. */
static __always_inline void hs_first(const struct hs_packet *p, struct hs_datagram *key,
                                     struct hs_first *first) {
    hs_datagram(p, key);
    __builtin_memset(first, 0, sizeof(*first));
    first->seen = bpf_ktime_get_coarse_ns();
    first->sport = p->key.tuple.sport;
    first->dport = p->key.tuple.dport;
    first->proto = p->key.tuple.proto;
    first->told = 1;
}

/* Whether what is known of a datagram is of this one, and not of an older one with its number. */
static __always_inline int hs_fresh(const struct hs_first *known, const struct hs_packet *p,
                                    __u64 now) {
    return known && known->told && now - known->seen < hs_fragment_ns(p->key.tuple.family);
}

/* Recall protocol and ports of a datagram for a later fragment; or see whether they are another
 * first fragment's: a second one with others would give the later ones to another flow. */
static __noinline enum hs_kind hs_fragment(struct hs_packet *p) {
    __u64 now = bpf_ktime_get_coarse_ns();
    struct hs_first first, *known;
    struct hs_datagram key;

    hs_datagram(p, &key);
    known = bpf_map_lookup_elem(&datagrams, &key);
    if (p->fragment == 1) {
        if (hs_fresh(known, p, now) &&
            (known->sport != p->key.tuple.sport || known->dport != p->key.tuple.dport ||
             known->proto != p->key.tuple.proto))
            return HS_CONFLICT;
        return HS_FLOW;
    }
    p->unknown = 1;
    key.vlan |= HS_DONT_KNOW;
    if (hs_fresh(bpf_map_lookup_elem(&datagrams, &key), p, now)) {
        p->unknown = 2;
        return HS_ORPHAN;
    }
    if (!hs_fresh(known, p, now))
        return HS_ORPHAN;
    first = *known;
    p->unknown = 0;
    p->key.tuple.proto = first.proto;
    p->key.tuple.sport = first.sport;
    p->key.tuple.dport = first.dport;
    return HS_FLOW;
}

/* Walk IPv6 extension headers from `next` at `p->l4`; sets protocol, offset and fragment. */
static __noinline enum hs_kind hs_extensions(struct __sk_buff *skb, struct hs_packet *p) {
    __u8 next = p->key.tuple.proto;
    __u32 at = p->l4;

    for (int i = 0; i < HS_EXTENSIONS; i++) {
        __u8 ext[8];

        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_FRAGMENT && next != IPPROTO_AH) {
            p->key.tuple.proto = next;
            p->l4 = at;
            return at > p->end ? HS_MALFORMED : HS_FLOW;
        }
        if (hs_load(skb, p, at, ext, 8) < 0)
            return HS_MALFORMED;
        if (next == IPPROTO_FRAGMENT) {
            __u16 offset = (ext[2] << 8 | ext[3]) & 0xfff8;

            p->fragment = offset ? 2 : (ext[3] & 1) ? 1 : p->fragment;
            __builtin_memcpy(&p->id, ext + 4, 4);
            at += 8;
            next = ext[0];
            if (offset) { /* what follows is not a header */
                p->key.tuple.proto = next;
                p->l4 = 0;
                return HS_FLOW;
            }
        } else if (next == IPPROTO_AH) {
            at += (ext[1] + 2) * 4;
            next = ext[0];
        } else {
            at += (ext[1] + 1) * 8;
            next = ext[0];
        }
    }
    return HS_MALFORMED;
}

/* From the transport header on, if this is not a later fragment. Returns enum hs_kind. */
HS_GLOBAL int hs_contents(struct __sk_buff *skb, struct hs_packet *p, int follow) {
    enum hs_kind kind = HS_FLOW;

    if (!p)
        return HS_MALFORMED;
    if (p->fragment != 2)
        kind = hs_transport(skb, p, follow);
    return kind == HS_FLOW && p->fragment ? hs_fragment(p) : kind;
}

static __noinline enum hs_kind hs_ipv4(struct __sk_buff *skb, struct hs_packet *p, __u32 l3,
                                       int follow) {
    enum hs_kind kind;
    struct iphdr ip;
    __u32 length;

    if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
        return HS_MALFORMED;
    length = bpf_ntohs(ip.tot_len);
    if (length == 0 && skb->gso_segs > 1) /* a super-packet past 64 KiB */
        length = skb->len - l3;
    if (length < ip.ihl * 4 || l3 + length > skb->len)
        return HS_MALFORMED;
    p->end = l3 + length;
    p->key.tuple.family = 4;
    p->key.tuple.proto = ip.protocol;
    __builtin_memcpy(p->key.tuple.src, &ip.saddr, 4);
    __builtin_memcpy(p->key.tuple.dst, &ip.daddr, 4);
    p->dscp = ip.tos >> 2;
    p->l4 = l3 + ip.ihl * 4;
    p->id = ip.id;
    if (ip.frag_off & bpf_htons(0x3fff))
        p->fragment = ip.frag_off & bpf_htons(0x1fff) ? 2 : 1;
    if (p->fragment == 2)
        p->l4 = 0;
    kind = hs_contents(skb, p, follow);
    if ((kind == HS_FLOW || kind == HS_ORPHAN) && p->group && hs_is_to_group(&p->key.tuple))
        return HS_GROUP;
    return kind;
}

static __noinline enum hs_kind hs_ipv6(struct __sk_buff *skb, struct hs_packet *p, __u32 l3,
                                       int follow) {
    struct ipv6hdr ip;
    enum hs_kind kind;

    if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)) < 0 || ip.version != 6)
        return HS_MALFORMED;
    p->l4 = l3 + sizeof(ip);
    p->end = p->l4 + bpf_ntohs(ip.payload_len);
    if (!ip.payload_len &&
        ip.nexthdr == IPPROTO_HOPOPTS) /* its length is in an option (RFC 2675) */
        p->end = skb->len;
    if (p->end > skb->len)
        return HS_MALFORMED;
    p->key.tuple.family = 6;
    p->key.tuple.proto = ip.nexthdr;
    __builtin_memcpy(p->key.tuple.src, &ip.saddr, 16);
    __builtin_memcpy(p->key.tuple.dst, &ip.daddr, 16);
    p->hops = ip.hop_limit;
    p->dscp = (ip.priority << 4 | ip.flow_lbl[0] >> 4) >> 2;
    kind = hs_extensions(skb, p);
    if (kind == HS_FLOW)
        kind = hs_contents(skb, p, follow);
    if ((kind == HS_FLOW || kind == HS_ORPHAN) && p->group && ip.daddr.s6_addr[0] == 0xff)
        return HS_GROUP;
    return kind;
}

/* The straight way for what most packets are: whole IPv4 without options, UDP or TCP, headers in
 * the linear part. Fills all of `p` and returns 1, or 0: then hs_parse has to look. */
static __always_inline int hs_quick(struct __sk_buff *skb, struct hs_packet *p, __u32 vm) {
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = data + sizeof(*eth);
    __u16 *ports = (void *)(ip + 1);
    __u32 length, *key = (void *)&p->key;
    __u8 flags = 0;

    if ((void *)(ports + 4) > end || eth->h_dest[0] & 1 || eth->h_proto != bpf_htons(ETH_P_IP))
        return 0;
    if (*(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff) || skb->vlan_present)
        return 0;
    length = bpf_ntohs(ip->tot_len);
    if (length + sizeof(*eth) > skb->len)
        return 0;
    if (ip->protocol == IPPROTO_TCP) {
        if ((void *)(ports + 10) > end || length < sizeof(*ip) + 20)
            return 0;
        flags = ((__u8 *)ports)[13];
    } else if (ip->protocol != IPPROTO_UDP || length < sizeof(*ip) + 8) {
        return 0;
    }
    key[0] = vm;
    key[1] = ip->saddr;
    key[2] = key[3] = key[4] = 0;
    key[5] = ip->daddr;
    key[6] = key[7] = key[8] = 0;
    key[9] = *(__u32 *)ports;
    p->key.tuple.proto = ip->protocol;
    p->key.tuple.family = 4;
    p->key.tuple.vlan = 0;
    p->tcp_flags = flags;
    p->dscp = ip->tos >> 2;
    p->error = p->fragment = 0;
    p->l4 = sizeof(*eth) + sizeof(*ip);
    p->end = sizeof(*eth) + length;
    p->group = p->unknown = p->hops = p->pad = 0;
    return 1;
}

static __always_inline int hs_is_tag(__u16 type) {
    return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* Pass over the tags in front of a frame's contents; sets the VLAN of `p`, the contents' ethertype
 * and where they begin. The outermost tag may be beside the frame, in skb->vlan_tci. */
static __noinline enum hs_kind hs_untag(struct __sk_buff *skb, struct hs_packet *p, __u16 *type,
                                        __u32 *l3) {
    __u16 vlan = skb->vlan_present ? skb->vlan_tci & 0xfff : 0;

    for (int i = 0; i < HS_TAGS && hs_is_tag(*type); i++) {
        __u16 tag[2], id;

        if (bpf_skb_load_bytes(skb, *l3, tag, 4) < 0)
            return HS_MALFORMED;
        id = bpf_ntohs(tag[0]) & 0xfff;
        if (vlan && id)
            break; /* a VLAN in the VLAN: to its receiver, an ethertype */
        vlan |= id;
        *type = tag[1];
        *l3 += 4;
    }
    p->key.tuple.vlan = vlan;
    return HS_FLOW;
}

/* Fill `p` (zeroed by the caller but for key.vm). on: HS_ON_*. follow: an ICMP error belongs to
 * the flow it is about. Returns enum hs_kind. */
HS_GLOBAL int hs_parse(struct __sk_buff *skb, struct hs_packet *p, __u32 on, int follow) {
    __u32 l3 = sizeof(struct ethhdr);
    struct ethhdr eth;
    __u16 type;

    if (!p || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
        return HS_MALFORMED;
    p->group = eth.h_dest[0] & 1;
    type = eth.h_proto;
    if (skb->vlan_present || hs_is_tag(type)) {
        if (hs_untag(skb, p, &type, &l3) != HS_FLOW)
            return HS_MALFORMED;
        if (p->key.tuple.vlan && !(on & HS_ON_VLAN))
            return HS_PLAIN;
        if (l3 == sizeof(eth) + 4 * HS_TAGS && hs_is_tag(type))
            return HS_DEEP;
    }
    if (type == bpf_htons(ETH_P_IP))
        return hs_ipv4(skb, p, l3, follow);
    if (type == bpf_htons(ETH_P_IPV6))
        return hs_ipv6(skb, p, l3, follow);
    if (!(on & HS_ON_ETHERTYPE) || type == bpf_htons(ETH_P_ARP))
        return HS_PLAIN;
    __builtin_memcpy(p->key.tuple.src, eth.h_source, 6);
    __builtin_memcpy(p->key.tuple.dst, eth.h_dest, 6);
    p->key.tuple.sport = type;
    return p->group ? HS_GROUP : HS_FLOW;
}

#endif
