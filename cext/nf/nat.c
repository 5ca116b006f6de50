// SPDX-License-Identifier: Apache-2.0
/* See nf/nat.h. This file: the ports of the outside address, and the fields that are changed. */
#include "nf/nat.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

static uint32_t ports_of(const struct hs_nat *n) {
    return (uint32_t)n->high - n->low + 1;
}

void hs_nat_close(struct hs_nat *n) {
    for (int c = 0; c < HS_NAT_CLASSES; c++) {
        free(n->ports[c].order);
        free(n->ports[c].where);
        free(n->ports[c].conn);
        free(n->ports[c].of_source);
    }
    hs_track_close(&n->conns);
    memset(n, 0, sizeof(*n));
}

static int drop(struct hs_nat *n, enum hs_nat_count reason) {
    n->counts[reason]++;
    return 0;
}

static struct hs_nat_ports *class_of(struct hs_nat *n, uint8_t proto) {
    switch (proto) {
    case HS_IP_TCP:
        return &n->ports[0];
    case HS_IP_UDP:
        return &n->ports[1];
    case HS_IP_ICMP:
        return &n->ports[2];
    default:
        return NULL;
    }
}

/* -- ports -- */

static void swap(struct hs_nat_ports *p, uint32_t a, uint32_t b) {
    const uint16_t x = p->order[a], y = p->order[b];

    p->order[a] = y;
    p->order[b] = x;
    p->where[x] = (uint16_t)b;
    p->where[y] = (uint16_t)a;
}

/* A connection that was kept has its port again; what cannot be one is forgotten. */
static void take_again(struct hs_nat *n, uint32_t at) {
    struct hs_tracked *e = &n->conns.entry[at];
    struct hs_nat_ports *p;
    struct hs_tuple tuple;

    memcpy(&tuple, e->key, sizeof(tuple));
    p = class_of(n, tuple.proto);
    if (!p || e->state > HS_CLOSING || e->port < n->low || e->port > n->high ||
        p->where[e->port - n->low] >= p->free_count) {
        hs_track_free(&n->conns, e);
        return;
    }
    p->conn[e->port - n->low] = at;
    p->of_source[hs_track_source(&n->conns, tuple.src)]++;
    p->free_count--;
    swap(p, p->where[e->port - n->low], p->free_count);
}

int hs_nat_open(struct hs_nat *n, const uint8_t address[4], const uint8_t mac[6], uint16_t low,
                uint16_t high, int kept_fd) {
    int ret = -EINVAL;
    uint32_t count;

    memset(n, 0, sizeof(*n));
    if (low == 0 || low > high)
        goto out;
    memcpy(n->address, address, 4);
    memcpy(n->mac, mac, 6);
    n->low = low;
    n->high = high;
    count = ports_of(n);
    /* Sets fill unevenly: with twice the room it is ports that run out first, but for bad luck. */
    ret = hs_track_open(&n->conns, 2 * HS_NAT_CLASSES * count, kept_fd);
    if (ret < 0)
        goto out;
    if (getrandom(&n->random, sizeof(n->random), 0) != sizeof(n->random)) {
        ret = -EIO;
        goto out;
    }
    n->random |= 1;
    ret = -ENOMEM;
    for (int c = 0; c < HS_NAT_CLASSES; c++) {
        struct hs_nat_ports *p = &n->ports[c];

        p->order = calloc(count, sizeof(*p->order));
        p->where = calloc(count, sizeof(*p->where));
        p->conn = calloc(count, sizeof(*p->conn));
        p->of_source = calloc(HS_TRACK_SOURCES, sizeof(*p->of_source));
        if (!p->order || !p->where || !p->conn || !p->of_source)
            goto out;
        for (uint32_t i = 0; i < count; i++)
            p->order[i] = p->where[i] = (uint16_t)i;
        p->free_count = count;
    }
    for (uint32_t i = 0; i < n->conns.entries; i++)
        if (n->conns.entry[i].state != HS_FREE)
            take_again(n, i);
    ret = 0;
out:
    if (ret < 0)
        hs_nat_close(n);
    return ret;
}

/* A free port: the one asked for, or any. The caller has seen free_count > 0. */
static uint16_t take_port(struct hs_nat *n, struct hs_nat_ports *p, uint16_t wanted) {
    uint32_t place;

    n->random ^= n->random << 13;
    n->random ^= n->random >> 7;
    n->random ^= n->random << 17;
    place = (uint32_t)((n->random >> 32) * p->free_count >> 32);
    if (wanted >= n->low && wanted <= n->high && p->where[wanted - n->low] < p->free_count)
        place = p->where[wanted - n->low];
    p->free_count--;
    swap(p, place, p->free_count);
    return (uint16_t)(n->low + p->order[p->free_count]);
}

/* Forget a connection, and have its port free. */
static void let_go(struct hs_nat *n, struct hs_tracked *e) {
    struct hs_nat_ports *p;
    struct hs_tuple tuple;

    if (e->state == HS_FREE)
        return;
    memcpy(&tuple, e->key, sizeof(tuple));
    p = class_of(n, tuple.proto);
    swap(p, p->where[e->port - n->low], p->free_count);
    p->of_source[hs_track_source(&n->conns, tuple.src)]--;
    p->free_count++;
    hs_track_free(&n->conns, e);
}

/* Let go of all that is over, at most once a second. */
static void sweep(struct hs_nat *n, uint64_t now) {
    if (n->swept && now - n->swept < HS_SECONDS)
        return;
    n->swept = now;
    for (uint32_t i = 0; i < n->conns.entries; i++)
        if (n->conns.entry[i].state != HS_FREE && hs_track_over(&n->conns.entry[i], now))
            let_go(n, &n->conns.entry[i]);
}

static struct hs_tracked *begin(struct hs_nat *n, const struct hs_tuple *tuple, const uint8_t *mac,
                                uint64_t now) {
    struct hs_nat_ports *p = class_of(n, tuple->proto);
    uint32_t *mine = &p->of_source[hs_track_source(&n->conns, tuple->src)];
    struct hs_tracked *e;

    if (*mine >= HS_NAT_SHARE * p->free_count) /* so, too, if none is free */
        sweep(n, now);
    if (p->free_count > 0 && *mine >= HS_NAT_SHARE * p->free_count)
        return NULL;
    e = hs_track_room(&n->conns, tuple, 0, now);
    if (!e)
        return NULL;
    let_go(n, e);
    if (p->free_count == 0)
        return NULL;
    hs_track_set(&n->conns, e, tuple, 0, now);
    memcpy(e->mac, mac, 6);
    atomic_signal_fence(memory_order_seq_cst); /* killed before this: port 0 is nobody's */
    e->port = take_port(n, p, ntohs(tuple->sport));
    p->conn[e->port - n->low] = (uint32_t)(e - n->conns.entry);
    (*mine)++;
    n->counts[HS_NAT_NEW]++;
    return e;
}

/* The connection that has an outside port and speaks with `remote`; tuple: from outside to the
 * outside address. */
static struct hs_tracked *by_port(struct hs_nat *n, const struct hs_tuple *tuple, uint64_t now) {
    const struct hs_nat_ports *p = class_of(n, tuple->proto);
    const uint16_t port = ntohs(tuple->dport);
    struct hs_tracked *e;
    struct hs_tuple key;

    if (!p || port < n->low || port > n->high || p->where[port - n->low] < p->free_count)
        return NULL;
    e = &n->conns.entry[p->conn[port - n->low]];
    memcpy(&key, e->key, sizeof(key));
    if (memcmp(key.dst, tuple->src, 4) != 0 || key.vlan != tuple->vlan || hs_track_over(e, now))
        return NULL;
    if (tuple->proto != HS_IP_ICMP && key.dport != tuple->sport)
        return NULL;
    return e;
}

/* -- changing packets -- */

enum side { SOURCE = 0, DESTINATION = 1 };

static void change(uint8_t *at, const uint8_t *to, uint32_t n, uint8_t *sum) {
    hs_sum_change(sum, at, to, n);
    memcpy(at, to, n);
}

static void change_address(uint8_t *ip, enum side side, const uint8_t *address) {
    change(ip + (side == SOURCE ? 12 : 16), address, 4, ip + 10);
}

/* Translate one end of the IPv4 packet at `l3`. room: bytes from l4 on that are there; of a quoted
 * packet only the first few are, and its checksum may not be. */
static void translate(uint8_t *frame, uint32_t l3, uint32_t l4, uint32_t room, enum side side,
                      const uint8_t *address, uint16_t port) {
    uint8_t *ip = frame + l3, *head = frame + l4, *sum = NULL, *at, bytes[2];
    const uint8_t proto = ip[9];

    if (proto == HS_IP_TCP && room >= 18)
        sum = head + 16;
    else if (proto == HS_IP_UDP && room >= 8 && hs_load16(head + 6) != 0)
        sum = head + 6;
    if (sum) /* of the pseudo-header */
        hs_sum_change(sum, ip + (side == SOURCE ? 12 : 16), address, 4);
    change_address(ip, side, address);
    at = head + (side == SOURCE ? 0 : 2);
    if (proto == HS_IP_ICMP) { /* no pseudo-header; the identifier, either way */
        sum = head + 2;
        at = head + 4;
    }
    hs_store16(bytes, port);
    if (sum)
        hs_sum_change(sum, at, bytes, 2);
    memcpy(at, bytes, 2);
    /* In UDP, 0 says that there is no checksum; a sum of 0 is written as its other zero. */
    if (proto == HS_IP_UDP && sum && hs_load16(sum) == 0)
        hs_store16(sum, 0xffff);
}

/* The same for the packet that an ICMP error quotes; the error's checksum covers it. */
static void translate_quoted(uint8_t *frame, const struct hs_view *v, enum side side,
                             const uint8_t *address, uint16_t port) {
    uint32_t n = v->inner_l4 + 20 - v->inner_l3; /* what may change lies in here */
    uint8_t before[80];

    if (n > v->end - v->inner_l3)
        n = v->end - v->inner_l3;
    n &= ~1u;
    memcpy(before, frame + v->inner_l3, n);
    translate(frame, v->inner_l3, v->inner_l4, v->end - v->inner_l4, side, address, port);
    hs_sum_change(frame + v->l4 + 2, before, frame + v->inner_l3, n);
}

static void change_macs(const struct hs_nat *n, uint8_t *frame, const uint8_t *to) {
    if (to)
        memcpy(frame, to, 6);
    memcpy(frame + 6, n->mac, 6);
}

/* -- the two ways -- */

/* An ICMP error from outside, about a packet that we sent out. */
static int error_in(struct hs_nat *n, uint8_t *frame, const struct hs_view *v, uint64_t now) {
    struct hs_tuple turned, key;
    struct hs_tracked *e;

    hs_tuple_turn(&v->inner, &turned);
    e = memcmp(v->inner.src, n->address, 4) == 0 ? by_port(n, &turned, now) : NULL;
    if (!e)
        return drop(n, HS_NAT_UNKNOWN);
    memcpy(&key, e->key, sizeof(key));
    translate_quoted(frame, v, SOURCE, key.src, ntohs(key.sport));
    change_address(frame + v->l3, DESTINATION, key.src);
    change_macs(n, frame, e->mac);
    n->counts[HS_NAT_IN]++;
    return 1;
}

/* An ICMP error from inside, about a packet that we let in. */
static int error_out(struct hs_nat *n, uint8_t *frame, const struct hs_view *v, uint64_t now) {
    struct hs_tracked *e;
    struct hs_tuple key;

    hs_tuple_turn(&v->inner, &key);
    e = hs_track_find(&n->conns, &key, now);
    if (!e)
        return drop(n, HS_NAT_UNKNOWN);
    translate_quoted(frame, v, DESTINATION, n->address, (uint16_t)e->port);
    change_address(frame + v->l3, SOURCE, n->address);
    change_macs(n, frame, NULL);
    n->counts[HS_NAT_OUT]++;
    return 1;
}

static void remember_fragments(struct hs_nat *n, const struct hs_view *v, const uint8_t *mac,
                               const uint8_t *to, uint64_t now) {
    struct hs_frag *frag;

    if (v->fragment != HS_FIRST_FRAGMENT)
        return;
    frag = hs_frags_add(&n->frags, v, now);
    memcpy(frag->mac, mac, 6);
    memcpy(frag->to, to, 4);
}

static int pass_in(struct hs_nat *n, uint8_t *frame, const struct hs_view *v, uint64_t now) {
    struct hs_tracked *e;
    struct hs_tuple key;

    if (v->fragment == HS_LATER_FRAGMENT) {
        const struct hs_frag *frag = hs_frags_find(&n->frags, v, now);

        if (!frag)
            return drop(n, HS_NAT_ORPHAN);
        change_address(frame + v->l3, DESTINATION, frag->to);
        change_macs(n, frame, frag->mac);
        n->counts[HS_NAT_IN]++;
        return 1;
    }
    if (v->inner.family)
        return error_in(n, frame, v, now);
    e = v->tuple.proto == HS_IP_ICMP && v->type != 0 ? NULL : by_port(n, &v->tuple, now);
    if (!e)
        return drop(n, HS_NAT_UNKNOWN);
    memcpy(&key, e->key, sizeof(key));
    hs_track_touch(e, 1, v->tcp_flags, now);
    remember_fragments(n, v, e->mac, key.src, now);
    translate(frame, v->l3, v->l4, v->end - v->l4, DESTINATION, key.src, ntohs(key.sport));
    change_macs(n, frame, e->mac);
    n->counts[HS_NAT_IN]++;
    return 1;
}

static int pass_out(struct hs_nat *n, uint8_t *frame, const struct hs_view *v, uint64_t now) {
    const uint8_t flags = v->tcp_flags;
    struct hs_tracked *e;

    if (memcmp(v->tuple.src, n->address, 4) == 0)
        return drop(n, HS_NAT_LOOPED);
    if (v->fragment == HS_LATER_FRAGMENT) {
        if (!hs_frags_find(&n->frags, v, now))
            return drop(n, HS_NAT_ORPHAN);
        change_address(frame + v->l3, SOURCE, n->address);
        change_macs(n, frame, NULL);
        n->counts[HS_NAT_OUT]++;
        return 1;
    }
    if (v->inner.family)
        return error_out(n, frame, v, now);
    if (!class_of(n, v->tuple.proto) ||
        (v->tuple.proto == HS_IP_ICMP && v->type != 8 && v->type != 0))
        return drop(n, HS_NAT_PROTOCOL);
    e = hs_track_find(&n->conns, &v->tuple, now);
    if (!e) {
        /* What can only be an answer begins nothing. */
        if (flags & HS_FLAG_RST || (flags & HS_FLAG_SYN && flags & HS_FLAG_ACK) ||
            (v->tuple.proto == HS_IP_ICMP && v->type == 0))
            return drop(n, HS_NAT_UNKNOWN);
        e = begin(n, &v->tuple, frame + 6, now);
        if (!e)
            return drop(n, HS_NAT_FULL);
    }
    hs_track_touch(e, 0, flags, now);
    remember_fragments(n, v, n->mac, n->address, now);
    translate(frame, v->l3, v->l4, v->end - v->l4, SOURCE, n->address, (uint16_t)e->port);
    change_macs(n, frame, NULL);
    n->counts[HS_NAT_OUT]++;
    return 1;
}

int hs_nat_pass(struct hs_nat *n, uint8_t *frame, uint32_t len, uint64_t now) {
    struct hs_view v;

    if (hs_view_parse(frame, len, &v) < 0)
        return drop(n, HS_NAT_MALFORMED);
    if (v.tuple.family != 4) {
        n->counts[HS_NAT_PLAIN]++;
        return 1;
    }
    if (memcmp(v.tuple.dst, n->address, 4) == 0)
        return pass_in(n, frame, &v, now);
    return pass_out(n, frame, &v, now);
}
