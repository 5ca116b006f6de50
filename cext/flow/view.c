// SPDX-License-Identifier: Apache-2.0
/* See flow/view.h. This file: the walk over the headers, those that an ICMP error quotes too. */
#include "flow/view.h"

#include <arpa/inet.h>
#include <string.h>

enum { ETHERNET = 14 };

/* The packet that an ICMP error at `at` is about; what it does not tell stays 0. */
static void parse_inner(const uint8_t *frame, uint32_t at, uint32_t end, struct hs_view *v) {
    struct hs_tuple inner = {.family = v->tuple.family, .vlan = v->tuple.vlan};
    const uint8_t *ip = frame + at;
    uint32_t l4;

    if (inner.family == 4) {
        if (end - at < 20 || ip[0] >> 4 != 4 || (ip[0] & 15) < 5 || (hs_load16(ip + 6) & 0x1fff))
            return;
        memcpy(inner.src, ip + 12, 4);
        memcpy(inner.dst, ip + 16, 4);
        inner.proto = ip[9];
        l4 = at + (ip[0] & 15) * 4u;
    } else {
        if (end - at < 40 || ip[0] >> 4 != 6)
            return;
        memcpy(inner.src, ip + 8, 16);
        memcpy(inner.dst, ip + 24, 16);
        inner.proto = ip[6];
        l4 = at + 40;
    }
    if (hs_has_ports(inner.proto)) {
        if (l4 + 4 > end)
            return;
        memcpy(&inner.sport, frame + l4, 2);
        memcpy(&inner.dport, frame + l4 + 2, 2);
    } else if (inner.proto == HS_IP_ICMP || inner.proto == HS_IP_ICMPV6) {
        if (l4 + 6 > end)
            return;
        memcpy(&inner.sport, frame + l4 + 4, 2);
        inner.dport = inner.sport;
    }
    if (memcmp(inner.src, v->tuple.dst, sizeof(inner.src)) != 0)
        return; /* an error goes to the sender of what it is about (RFC 1122, 4443) */
    v->inner = inner;
    v->inner_l3 = at;
    v->inner_l4 = l4;
}

static int parse_transport(const uint8_t *frame, struct hs_view *v) {
    const uint8_t *l4 = frame + v->l4, proto = v->tuple.proto;
    const uint32_t left = v->end - v->l4;
    int echo, error;

    if (v->l4 > v->end)
        return -1;
    if (hs_has_ports(proto)) {
        if (left < (proto == HS_IP_TCP ? 20 : 8))
            return -1;
        memcpy(&v->tuple.sport, l4, 2);
        memcpy(&v->tuple.dport, l4 + 2, 2);
        if (proto == HS_IP_TCP)
            v->tcp_flags = l4[13];
        return 0;
    }
    if (proto != HS_IP_ICMP && proto != HS_IP_ICMPV6)
        return 0;
    if (left < 8)
        return -1;
    v->type = l4[0];
    echo = proto == HS_IP_ICMP ? v->type == 8 || v->type == 0 : v->type == 128 || v->type == 129;
    error = proto == HS_IP_ICMP ? v->type == 3 || v->type == 11 || v->type == 12 : v->type < 128;
    if (echo) {
        memcpy(&v->tuple.sport, l4 + 4, 2);
        v->tuple.dport = v->tuple.sport;
    } else if (error && v->fragment == HS_WHOLE &&
               (proto == HS_IP_ICMPV6) == (v->tuple.family == 6)) {
        parse_inner(frame, v->l4 + 8, v->end, v);
    }
    return 0;
}

static int parse_ipv4(const uint8_t *frame, uint32_t len, struct hs_view *v) {
    const uint8_t *ip = frame + v->l3;
    uint32_t header, total, offset;

    if (len < v->l3 + 20 || ip[0] >> 4 != 4)
        return -1;
    header = (ip[0] & 15) * 4u;
    total = hs_load16(ip + 2);
    if (header < 20 || total < header || total > len - v->l3)
        return -1;
    v->end = v->l3 + total;
    v->tuple.family = 4;
    v->tuple.proto = ip[9];
    v->dscp = ip[1] >> 2;
    memcpy(v->tuple.src, ip + 12, 4);
    memcpy(v->tuple.dst, ip + 16, 4);
    offset = hs_load16(ip + 6) & 0x3fff;
    if (offset) {
        v->id = hs_load16(ip + 4);
        v->fragment = offset & 0x1fff ? HS_LATER_FRAGMENT : HS_FIRST_FRAGMENT;
        if (v->fragment == HS_LATER_FRAGMENT)
            return 0;
    }
    v->l4 = v->l3 + header;
    return parse_transport(frame, v);
}

static int parse_ipv6(const uint8_t *frame, uint32_t len, struct hs_view *v) {
    const uint8_t *ip = frame + v->l3;
    uint32_t at = v->l3 + 40;
    uint8_t next;

    if (len < at || ip[0] >> 4 != 6 || hs_load16(ip + 4) > len - at)
        return -1;
    v->end = at + hs_load16(ip + 4);
    v->tuple.family = 6;
    v->dscp = (uint8_t)((ip[0] << 4 | ip[1] >> 4) & 0xff) >> 2;
    memcpy(v->tuple.src, ip + 8, 16);
    memcpy(v->tuple.dst, ip + 24, 16);
    next = ip[6];
    for (int i = 0; i < HS_EXTENSIONS; i++) {
        const uint8_t *ext = frame + at;

        /* hop-by-hop, routing, destination options, fragment, authentication */
        if (next != 0 && next != 43 && next != 60 && next != 44 && next != 51) {
            v->tuple.proto = next;
            v->l4 = at;
            return parse_transport(frame, v);
        }
        if (at + 8 > v->end)
            return -1;
        if (next == 44) {
            const uint32_t offset = hs_load16(ext + 2) & 0xfff8;

            if (offset || ext[3] & 1)
                v->fragment = offset ? HS_LATER_FRAGMENT : HS_FIRST_FRAGMENT;
            memcpy(&v->id, ext + 4, 4);
            at += 8;
            if (offset) { /* what follows is not a header */
                v->tuple.proto = ext[0];
                return 0;
            }
        } else {
            at += next == 51 ? (ext[1] + 2u) * 4 : (ext[1] + 1u) * 8;
        }
        next = ext[0];
    }
    return -1;
}

/* Pass over the tags in front of the contents. 0, or -1: malformed. */
static int untag(const uint8_t *frame, uint32_t len, struct hs_view *v, uint16_t *ethertype) {
    uint16_t type = hs_load16(frame + 12);

    for (int tags = 0; type == 0x8100 || type == 0x88a8; tags++) {
        uint16_t id;

        if (tags == HS_TAGS || len < v->l3 + 4)
            return -1;
        id = hs_load16(frame + v->l3) & 0xfff;
        if (v->tuple.vlan && id)
            break; /* a VLAN in the VLAN: to its receiver, an ethertype */
        v->tuple.vlan |= id;
        type = hs_load16(frame + v->l3 + 2);
        v->l3 += 4;
    }
    *ethertype = type;
    return 0;
}

int hs_view_parse(const uint8_t *frame, uint32_t len, struct hs_view *v) {
    uint16_t type;

    memset(v, 0, sizeof(*v));
    if (len < ETHERNET)
        return -1;
    v->l3 = ETHERNET;
    v->end = len;
    if (untag(frame, len, v, &type) < 0)
        return -1;
    if (type == 0x0800)
        return parse_ipv4(frame, len, v);
    if (type == 0x86dd)
        return parse_ipv6(frame, len, v);
    memcpy(v->tuple.dst, frame, 6);
    memcpy(v->tuple.src, frame + 6, 6);
    v->tuple.sport = htons(type);
    return 0;
}
