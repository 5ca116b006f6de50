/* From a frame to its flow: what the classifier and the transfer component both read.
 *
 * Which flow a frame belongs to must be the same answer at both, for their counts are compared.
 *   - IPv4 and IPv6 unicast belongs to the flow of its addresses, protocol and ports; protocols
 *     without ports, and ICMP other than echo, have ports 0.
 *   - An ICMP error belongs to the flow it is about, in the other direction, where that flow is
 *     known: so it meets the same VMs as the replies, and connection tracking there knows it.
 *   - A fragment belongs to the flow of its first fragment (remembered by datagram, LRU). One
 *     that comes before its first is an orphan.
 *   - A VLAN-tagged frame has the tag in its flow's key, where a policy matches VLANs; other
 *     unicast ethertypes are flows between MAC addresses, where a policy matches ethertypes.
 *   - Everything else is bridged plainly: broadcast, multicast, ARP, IPv6 neighbour and router
 *     discovery; and tagged frames and other ethertypes where no policy matches such. */
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

#include "flow/tuple.h"

enum { HS_HEADERS = 54 }; /* Ethernet and IPv6, or Ethernet, IPv4 and TCP */

enum hs_kind { HS_FLOW, HS_PLAIN, HS_MALFORMED, HS_ORPHAN };

struct hs_packet {
    struct hs_key key; /* vm: whose interface it is on; the tuple is what hs_parse finds */
    __u8 tcp_flags;
    __u8 dscp;
    __u8 error;    /* an ICMP error; tuple is the flow it is about, turned round */
    __u8 fragment; /* 1: the first, 2: a later one */
    __u32 l4;      /* offset of the transport header, 0: none in this fragment */
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
    __u32 id;
    __u8 proto, family;
    __u16 vlan;
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct hs_datagram);
    __type(value, __u32); /* source port << 16 | destination port, as in the packet */
} datagrams SEC(".maps");

/* The flow an ICMP error at `at` is about, turned round. 0, or -1 where it does not say. */
static __noinline int hs_inner(struct __sk_buff *skb, __u32 at, struct hs_packet *p) {
    struct hs_tuple inner = {};
    __u32 l4;

    inner.family = p->key.tuple.family;
    inner.vlan = p->key.tuple.vlan;
    if (inner.family == 4) {
        struct iphdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
            return -1;
        if (ip.frag_off & bpf_htons(0x1fff))
            return -1;
        __builtin_memcpy(inner.src, &ip.saddr, 4);
        __builtin_memcpy(inner.dst, &ip.daddr, 4);
        inner.proto = ip.protocol;
        l4 = at + ip.ihl * 4;
    } else {
        struct ipv6hdr ip;
        if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || ip.version != 6)
            return -1;
        __builtin_memcpy(inner.src, &ip.saddr, 16);
        __builtin_memcpy(inner.dst, &ip.daddr, 16);
        inner.proto = ip.nexthdr;
        l4 = at + sizeof(ip);
    }
    if (hs_has_ports(inner.proto)) {
        __u16 ports[2];
        if (bpf_skb_load_bytes(skb, l4, ports, 4) < 0)
            return -1;
        inner.sport = ports[0];
        inner.dport = ports[1];
    } else if (inner.proto == IPPROTO_ICMP || inner.proto == IPPROTO_ICMPV6) {
        __u16 id;
        if (bpf_skb_load_bytes(skb, l4 + 4, &id, 2) < 0)
            return -1;
        inner.sport = inner.dport = id;
    }
    hs_tuple_turn(&inner, &p->key.tuple);
    p->error = 1;
    return 0;
}

/* The transport header: ports, flags, echo identifiers. */
static __always_inline enum hs_kind hs_transport(struct __sk_buff *skb, struct hs_packet *p,
                                                 int follow) {
    __u8 head[14];
    __u8 proto = p->key.tuple.proto;

    if (proto == IPPROTO_TCP) {
        if (bpf_skb_load_bytes(skb, p->l4, head, 14) < 0)
            return HS_MALFORMED;
        p->tcp_flags = head[13];
    } else if (hs_has_ports(proto)) {
        if (bpf_skb_load_bytes(skb, p->l4, head, 4) < 0)
            return HS_MALFORMED;
    } else if (proto == IPPROTO_ICMP) {
        if (bpf_skb_load_bytes(skb, p->l4, head, 8) < 0)
            return HS_MALFORMED;
        if (head[0] == 8 || head[0] == 0) {
            __builtin_memcpy(&p->key.tuple.sport, head + 4, 2);
            p->key.tuple.dport = p->key.tuple.sport;
        } else if (follow && (head[0] == 3 || head[0] == 11 || head[0] == 12)) {
            hs_inner(skb, p->l4 + 8, p);
        }
        return HS_FLOW;
    } else if (proto == IPPROTO_ICMPV6) {
        if (bpf_skb_load_bytes(skb, p->l4, head, 8) < 0)
            return HS_MALFORMED;
        if (head[0] == 128 || head[0] == 129) {
            __builtin_memcpy(&p->key.tuple.sport, head + 4, 2);
            p->key.tuple.dport = p->key.tuple.sport;
        } else if (head[0] >= 130 && head[0] <= 137) {
            return HS_PLAIN; /* multicast listeners, neighbour and router discovery */
        } else if (follow && head[0] < 128) {
            hs_inner(skb, p->l4 + 8, p);
        }
        return HS_FLOW;
    } else {
        return HS_FLOW;
    }
    __builtin_memcpy(&p->key.tuple.sport, head, 2);
    __builtin_memcpy(&p->key.tuple.dport, head + 2, 2);
    return HS_FLOW;
}

/* Remember the ports of a datagram by its first fragment, or recall them for a later one. */
static __noinline enum hs_kind hs_fragment(struct hs_packet *p, __u32 id) {
    struct hs_datagram key = {};
    __u32 ports, *known;

    __builtin_memcpy(key.src, p->key.tuple.src, 16);
    __builtin_memcpy(key.dst, p->key.tuple.dst, 16);
    key.proto = p->key.tuple.proto;
    key.family = p->key.tuple.family;
    key.vlan = p->key.tuple.vlan;
    key.id = id;
    if (p->fragment == 1) {
        ports = (__u32)p->key.tuple.sport << 16 | p->key.tuple.dport;
        bpf_map_update_elem(&datagrams, &key, &ports, BPF_ANY);
        return HS_FLOW;
    }
    known = bpf_map_lookup_elem(&datagrams, &key);
    if (!known)
        return HS_ORPHAN;
    p->key.tuple.sport = *known >> 16;
    p->key.tuple.dport = *known;
    return HS_FLOW;
}

/* Walk IPv6 extension headers from `next` at `p->l4`; sets protocol, offset and fragment. */
static __noinline enum hs_kind hs_extensions(struct __sk_buff *skb, struct hs_packet *p,
                                             __u32 *id) {
    __u8 next = p->key.tuple.proto;
    __u32 at = p->l4;

    for (int i = 0; i < 8; i++) {
        __u8 ext[8];

        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
            next != IPPROTO_FRAGMENT && next != IPPROTO_AH) {
            p->key.tuple.proto = next;
            p->l4 = at;
            return HS_FLOW;
        }
        if (bpf_skb_load_bytes(skb, at, ext, 8) < 0)
            return HS_MALFORMED;
        if (next == IPPROTO_FRAGMENT) {
            __u16 offset = (ext[2] << 8 | ext[3]) & 0xfff8;

            p->fragment = offset ? 2 : (ext[3] & 1) ? 1 : p->fragment;
            __builtin_memcpy(id, ext + 4, 4);
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

static __noinline enum hs_kind hs_slow_ipv6(struct __sk_buff *skb, struct hs_packet *p,
                                            int follow) {
    __u32 id = 0;
    enum hs_kind kind = hs_extensions(skb, p, &id);

    if (kind != HS_FLOW)
        return kind;
    if (p->fragment == 2)
        return hs_fragment(p, id);
    kind = hs_transport(skb, p, follow);
    if (kind == HS_FLOW && p->fragment)
        return hs_fragment(p, id);
    return kind;
}

static __noinline enum hs_kind hs_slow_ipv4(struct __sk_buff *skb, struct hs_packet *p, __u32 id,
                                            int follow) {
    enum hs_kind kind;

    if (p->fragment == 2)
        return hs_fragment(p, id);
    kind = hs_transport(skb, p, follow);
    if (kind == HS_FLOW && p->fragment)
        return hs_fragment(p, id);
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
    if (length < sizeof(*ip) || length + sizeof(*eth) > skb->len)
        return 0;
    if (ip->protocol == IPPROTO_TCP) {
        if ((void *)(ports + 10) > end)
            return 0;
        flags = ((__u8 *)ports)[13];
    } else if (ip->protocol != IPPROTO_UDP) {
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
    return 1;
}

/* Fill `p` (zeroed by the caller but for key.vm). on: HS_ON_*. follow: an ICMP error belongs to
 * the flow it is about. */
static __always_inline enum hs_kind hs_parse(struct __sk_buff *skb, struct hs_packet *p, __u32 on,
                                             int follow) {
    void *data, *end;
    struct ethhdr *eth;

    data = (void *)(long)skb->data;
    end = (void *)(long)skb->data_end;
    if (data + HS_HEADERS > end) { /* a short frame, or its headers are not in the linear part */
        bpf_skb_pull_data(skb, skb->len < HS_HEADERS ? skb->len : HS_HEADERS);
        data = (void *)(long)skb->data;
        end = (void *)(long)skb->data_end;
    }
    eth = data;
    if (data + sizeof(*eth) > end)
        return HS_MALFORMED;
    if (eth->h_dest[0] & 1)
        return HS_PLAIN;
    if (skb->vlan_present) {
        if (!(on & HS_ON_VLAN))
            return HS_PLAIN;
        p->key.tuple.vlan = skb->vlan_tci & 0xfff;
    }
    if (eth->h_proto == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + sizeof(*eth);
        __u32 length;

        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
            return HS_MALFORMED;
        length = bpf_ntohs(ip->tot_len);
        if (length + sizeof(*eth) > skb->len || (length < ip->ihl * 4 && skb->gso_segs <= 1))
            return HS_MALFORMED; /* a super-packet past 64 KiB has length 0 */
        p->key.tuple.family = 4;
        p->key.tuple.proto = ip->protocol;
        __builtin_memcpy(p->key.tuple.src, &ip->saddr, 4);
        __builtin_memcpy(p->key.tuple.dst, &ip->daddr, 4);
        p->dscp = ip->tos >> 2;
        p->l4 = sizeof(*eth) + ip->ihl * 4;
        if (ip->frag_off & bpf_htons(0x3fff)) {
            p->fragment = ip->frag_off & bpf_htons(0x1fff) ? 2 : 1;
            return hs_slow_ipv4(skb, p, ip->id, follow);
        }
        if (ip->ihl == 5 && ip->protocol == IPPROTO_UDP) {
            __u16 *ports = (void *)(ip + 1);
            if ((void *)(ports + 4) > end)
                return HS_MALFORMED;
            p->key.tuple.sport = ports[0];
            p->key.tuple.dport = ports[1];
            return HS_FLOW;
        }
        if (ip->ihl == 5 && ip->protocol == IPPROTO_TCP) {
            __u16 *ports = (void *)(ip + 1);
            if ((void *)(ports + 10) > end)
                return HS_MALFORMED;
            p->key.tuple.sport = ports[0];
            p->key.tuple.dport = ports[1];
            p->tcp_flags = ((__u8 *)ports)[13];
            return HS_FLOW;
        }
        return hs_slow_ipv4(skb, p, 0, follow);
    }
    if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + sizeof(*eth);

        if ((void *)(ip + 1) > end || ip->version != 6)
            return HS_MALFORMED;
        if (bpf_ntohs(ip->payload_len) + sizeof(*eth) + sizeof(*ip) > skb->len)
            return HS_MALFORMED;
        p->key.tuple.family = 6;
        p->key.tuple.proto = ip->nexthdr;
        __builtin_memcpy(p->key.tuple.src, &ip->saddr, 16);
        __builtin_memcpy(p->key.tuple.dst, &ip->daddr, 16);
        p->dscp = (ip->priority << 4 | ip->flow_lbl[0] >> 4) >> 2;
        p->l4 = sizeof(*eth) + sizeof(*ip);
        return hs_slow_ipv6(skb, p, follow);
    }
    if (!(on & HS_ON_ETHERTYPE) || eth->h_proto == bpf_htons(ETH_P_ARP))
        return HS_PLAIN;
    __builtin_memcpy(p->key.tuple.src, eth->h_source, 6);
    __builtin_memcpy(p->key.tuple.dst, eth->h_dest, 6);
    p->key.tuple.sport = eth->h_proto;
    return HS_FLOW;
}

#endif
