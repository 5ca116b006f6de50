// SPDX-License-Identifier: Apache-2.0
/* See nf/firewall.h. This file: the rows held against a packet, and the connections. */
#include "nf/firewall.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>

int hs_firewall_open(struct hs_firewall *f, const struct hs_row *rows, uint32_t row_count,
                     const uint8_t *accept, uint32_t rules, uint32_t conns, int kept_fd) {
    int ret = -EINVAL;

    memset(f, 0, sizeof(*f));
    if (row_count > HS_RULES_MAX || rules > HS_RULES_MAX)
        goto out;
    for (uint32_t i = 0; i < row_count; i++)
        if (rows[i].route >= rules)
            goto out;
    ret = hs_track_open(&f->conns, conns, kept_fd);
    if (ret < 0)
        goto out;
    f->rows = rows;
    f->row_count = row_count;
    f->accept = accept;
    f->rules = rules;
    f->hits = calloc(rules + 1, sizeof(*f->hits));
    f->refused = calloc(rules + 1, sizeof(*f->refused));
    ret = f->hits && f->refused ? 0 : -ENOMEM;
out:
    if (ret < 0)
        hs_firewall_close(f);
    return ret;
}

void hs_firewall_close(struct hs_firewall *f) {
    free(f->hits);
    free(f->refused);
    hs_track_close(&f->conns);
    memset(f, 0, sizeof(*f));
}

static int in_ranges(const uint16_t (*ranges)[2], uint16_t port) {
    for (int i = 0; i < HS_RANGES; i++)
        if (ranges[i][0] <= port && port <= ranges[i][1])
            return 1;
    return 0;
}

static int in_prefixes(const struct hs_prefix *prefixes, const uint8_t *address) {
    uint32_t words[4];

    memcpy(words, address, sizeof(words));
    for (int i = 0; i < HS_PREFIXES; i++) {
        const struct hs_prefix *p = &prefixes[i];
        int inside = 1;

        for (int j = 0; j < 4; j++)
            inside &= (words[j] & p->mask[j]) == p->addr[j];
        if (inside)
            return 1;
    }
    return 0;
}

static int matches(const struct hs_row *row, const struct hs_tuple *t, uint8_t flags,
                   uint8_t dscp) {
    if (t->vlan != row->vlan)
        return 0;
    if (t->family ? row->ethertype : row->ethertype != t->sport)
        return 0;
    if (row->family && row->family != t->family)
        return 0;
    if (row->proto && row->proto != t->proto + 1)
        return 0;
    if (row->ports && !hs_has_ports(t->proto))
        return 0;
    if (row->ports & HS_ROW_SPORT && !in_ranges(row->sport, ntohs(t->sport)))
        return 0;
    if (row->ports & HS_ROW_DPORT && !in_ranges(row->dport, ntohs(t->dport)))
        return 0;
    if (!in_prefixes(row->src, t->src) || !in_prefixes(row->dst, t->dst))
        return 0;
    if (row->dscp && row->dscp != dscp + 1)
        return 0;
    return (flags & row->tcp_mask) == row->tcp_want;
}

/* The first row that matches; row_count: none. */
static uint32_t walk(const struct hs_firewall *f, const struct hs_tuple *t, uint8_t flags,
                     uint8_t dscp) {
    uint32_t i;

    for (i = 0; i < f->row_count; i++)
        if (matches(&f->rows[i], t, flags, dscp))
            break;
    return i;
}

uint32_t hs_firewall_rule(const struct hs_firewall *f, const struct hs_view *v) {
    const uint8_t flags = v->tcp_flags & (HS_FLAG_SYN | HS_FLAG_ACK);
    const int tcp = v->tuple.family && v->tuple.proto == HS_IP_TCP;
    uint32_t row = f->row_count, back;
    struct hs_tuple turned;

    if (!tcp || flags != (HS_FLAG_SYN | HS_FLAG_ACK))
        row = walk(f, &v->tuple, v->tcp_flags, v->dscp);
    if (tcp && !(flags == HS_FLAG_SYN)) {
        hs_tuple_turn(&v->tuple, &turned);
        back = walk(f, &turned, v->tcp_flags, v->dscp);
        if (back < row)
            row = back;
    }
    return row < f->row_count ? f->rows[row].route : f->rules;
}

static int drop(struct hs_firewall *f, enum hs_firewall_drop reason) {
    f->drops[reason]++;
    return 0;
}

/* The connection the packet is part of; *reply: against its first packet's way. */
static struct hs_tracked *connection(struct hs_firewall *f, const struct hs_tuple *tuple,
                                     uint64_t now, int *reply) {
    struct hs_tracked *e;
    struct hs_tuple key;
    int turned = hs_tuple_both_ways(tuple, &key);

    e = hs_track_find(&f->conns, &key, now);
    if (e)
        *reply = turned != (e->turned & HS_TRACK_TURNED);
    return e;
}

/* Whether the packet begins a TCP connection. */
static int begins(const struct hs_view *v) {
    return v->tuple.family && v->tuple.proto == HS_IP_TCP &&
           (v->tcp_flags & (HS_FLAG_SYN | HS_FLAG_ACK)) == HS_FLAG_SYN;
}

static int judge(struct hs_firewall *f, const struct hs_view *v, uint64_t now) {
    uint32_t rule = hs_firewall_rule(f, v);
    struct hs_tracked *e;
    struct hs_tuple key;

    f->hits[rule]++;
    if (!f->accept[rule]) {
        f->refused[rule]++;
        return 0;
    }
    if (v->tuple.family) {
        const uint8_t turned = hs_tuple_both_ways(&v->tuple, &key) ? HS_TRACK_TURNED : 0;

        e = hs_track_room(&f->conns, &key, turned, now);
        if (!e)
            return drop(f, HS_FW_TABLE_FULL);
        hs_track_set(&f->conns, e, &key, turned | (begins(v) ? HS_TRACK_SYN : 0), now);
        hs_track_touch(e, 0, v->tcp_flags, now);
    }
    return 1;
}

int hs_firewall_pass(struct hs_firewall *f, const uint8_t *frame, uint32_t len, uint64_t now) {
    struct hs_tracked *e = NULL;
    struct hs_view v;
    int reply = 0;

    if (hs_view_parse(frame, len, &v) < 0)
        return drop(f, HS_FW_MALFORMED);
    if (v.fragment == HS_LATER_FRAGMENT) {
        if (!hs_frags_find(&f->frags, &v, now))
            return drop(f, HS_FW_ORPHAN);
        f->accepted++;
        return 1;
    }
    if (v.inner.family)
        e = connection(f, &v.inner, now, &reply);
    if (!e && v.tuple.family) {
        e = connection(f, &v.tuple, now, &reply);
        if (e && begins(&v) && (reply || !(e->turned & HS_TRACK_SYN)))
            e = NULL; /* known, but not begun this way: that is for the rules to say */
        if (e)
            hs_track_touch(e, reply, v.tcp_flags, now);
    }
    if (!e && !judge(f, &v, now))
        return 0;
    if (v.fragment == HS_FIRST_FRAGMENT)
        hs_frags_add(&f->frags, &v, now);
    f->accepted++;
    return 1;
}
