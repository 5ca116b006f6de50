// SPDX-License-Identifier: Apache-2.0
/* The parsers find the same flow in any frame: a port's, a packet function's and the kernel's,
 * which is compiled for user space here (shim/bpf/bpf_helpers.h).
 *
 * The frame's bytes say what each of them should find, not how the frame was made: so the packet
 * function's parser is held against the others. Whatever flow hs_flow_parse finds, hs_view_parse
 * finds too; the other way round, hs_flow_parse finds none only for a reason that has a name here.
 * Each frame ends where its memory does, so that one byte too far is seen.
 */
#define _GNU_SOURCE
#include "flow/glance.h"
#include "flow/packet.bpf.h"
#include "flow/parse.h"
#include "flow/view.h"
#include "frames.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_32BIT /* x86's; elsewhere the address is wished for */
#define MAP_32BIT 0
#endif
#define LOW ((void *)0x20000000)
#define FRAMES 1000000
#define PAGE 65536u
#define SECOND UINT64_C(1000000000)

enum reason {
    NONE,
    GROUP,
    TAGGED,
    NO_IP,
    FRAGMENT,
    EXTENSIONS,
    NOT_ECHO, /* ICMP other than echo */
    REASONS
};

/* What the kernel's parser is given: its packet in hand, its memory of datagrams, its clock. */
static struct hs_packet in_hand;
static struct {
    struct hs_datagram key;
    struct hs_first value;
} remembered[512];
static uint64_t now = SECOND, conflicts, recalled;

static uint32_t place(const struct hs_datagram *key) {
    return (key->id * 2654435761u ^ key->proto) >> 23; /* as an LRU map, it may forget */
}

void *bpf_map_lookup_elem(void *map, const void *key) {
    const uint32_t at = map == &datagrams ? place(key) : 0;

    if (map == &packets)
        return &in_hand;
    return memcmp(&remembered[at].key, key, sizeof(struct hs_datagram)) == 0 ? &remembered[at].value
                                                                             : NULL;
}

long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags) {
    const uint32_t at = place(key);

    CHECK(map == &datagrams && flags == BPF_ANY);
    memcpy(&remembered[at].key, key, sizeof(struct hs_datagram));
    memcpy(&remembered[at].value, value, sizeof(struct hs_first));
    return 0;
}

long bpf_skb_load_bytes(const struct __sk_buff *skb, __u32 offset, void *to, __u32 size) {
    if (offset > skb->len || size > skb->len - offset)
        return -1;
    memcpy(to, (const uint8_t *)(uintptr_t)skb->data + offset, size);
    return 0;
}

__u64 bpf_ktime_get_coarse_ns(void) {
    return now;
}

/* Why a port leaves a frame to the switch, of which a packet function finds the flow. */
static enum reason reason_of(const uint8_t *frame, const struct hs_view *v) {
    const struct hs_tuple *t = &v->tuple;
    const uint8_t proto = t->proto;

    if (frame[0] & 1)
        return GROUP;
    if (v->l3 != 14 || t->vlan)
        return TAGGED;
    if (!t->family)
        return NO_IP;
    if (v->fragment)
        return FRAGMENT;
    if (t->family == 6 && v->l4 != 54)
        return EXTENSIONS;
    if (proto == HS_IP_ICMP || proto == HS_IP_ICMPV6) {
        const uint8_t least = proto == HS_IP_ICMP ? 0 : 128, most = proto == HS_IP_ICMP ? 8 : 129;

        if (proto == (t->family == 4 ? HS_IP_ICMP : HS_IP_ICMPV6) &&
            (v->type == least || v->type == most))
            return NONE;
        return NOT_ECHO;
    }
    return NONE;
}

/* Whether the kernel bridges a frame plainly that is well formed: it speaks of neighbours, or ARP.
 * l3: where its IP header is. */
static int speaks_of_neighbours(const uint8_t *frame, const struct hs_view *v, uint32_t l3) {
    if (!v->tuple.family)
        return v->tuple.sport == bpf_htons(ETH_P_ARP);
    if (v->tuple.family != 6 || v->tuple.proto != HS_IP_ICMPV6)
        return 0;
    if (v->type >= 133 && v->type <= 137)
        return frame[l3 + 7] == 255;
    return ((v->type >= 130 && v->type <= 132) || v->type == 143) && frame[l3 + 7] == 1 &&
           frame[0] & 1 && v->tuple.dst[0] == 0xff;
}

static int to_group(const struct hs_tuple *t) {
    if (t->family == 4)
        return t->dst[0] >> 4 == 14 || memcmp(t->dst, "\xff\xff\xff\xff", 4) == 0;
    return !t->family || t->dst[0] == 0xff;
}

/* Whether an IPv6 packet says that its length is in an option (RFC 2675). */
static int jumbo(const uint8_t *frame, uint32_t l3) {
    return hs_load16(frame + l3 + 4) == 0 && frame[l3 + 6] == 0;
}

/* What the kernel finds is what the packet function finds. pushed: bytes of a tag that is beside
 * the frame for the one and inside it for the other. */
static void same(enum hs_kind kind, const uint8_t *frame, const struct hs_view *v, int viewed,
                 uint32_t pushed) {
    const struct hs_packet *p = &in_hand;
    struct hs_tuple expected = v->tuple;

    if (!viewed) {
        if (kind != HS_MALFORMED && kind != HS_DEEP)
            CHECK(v->tuple.family == 6 && jumbo(frame, v->l3));
        return;
    }
    CHECK(kind != HS_MALFORMED && kind != HS_DEEP);
    if (speaks_of_neighbours(frame, v, v->l3 - pushed)) {
        CHECK(kind == HS_PLAIN);
        return;
    }
    CHECK(p->group == (frame[0] & 1));
    if (v->inner.family) {
        CHECK(p->error);
        hs_tuple_turn(&v->inner, &expected);
    }
    if (v->fragment == HS_LATER_FRAGMENT) {
        CHECK(p->fragment == 2 && p->l4 == 0);
        expected.sport = p->key.tuple.sport;
        expected.dport = p->key.tuple.dport;
        if (v->tuple.family == 6 && !p->unknown)
            expected.proto = p->key.tuple.proto; /* the first fragment's: see datagrams_end */
        CHECK(!p->unknown || (!expected.sport && !expected.dport));
        recalled += !p->unknown;
    }
    if (kind == HS_CONFLICT) {
        CHECK(v->fragment == HS_FIRST_FRAGMENT);
        conflicts++;
    } else if (p->group && to_group(&v->tuple)) {
        CHECK(kind == HS_GROUP);
    } else {
        CHECK(kind == (p->unknown ? HS_ORPHAN : HS_FLOW));
    }
    CHECK(hs_tuple_same(&expected, &p->key.tuple));
    if (v->tuple.family) {
        CHECK(p->fragment == v->fragment && p->end + pushed == v->end);
        CHECK(v->fragment == HS_LATER_FRAGMENT || p->l4 + pushed == v->l4);
        CHECK(p->tcp_flags == v->tcp_flags && p->dscp == v->dscp);
    }
}

/* What a glance at the packet finds is what the packet function finds in its frame. Returns whether
 * it found a flow. */
static int at_a_glance(const uint8_t *frame, uint32_t len, const struct hs_view *v) {
    struct hs_tuple found = {0}, expected = v->tuple;
    uint8_t ip[HS_GLANCE_IP] = {0}, l4[HS_GLANCE_L4];
    uint32_t header, most = len - v->l3;
    int seen;

    memcpy(ip, frame + v->l3, most < sizeof(ip) ? most : sizeof(ip));
    header = hs_glance_ip(ip, &found);
    seen = header && header + sizeof(l4) <= most;
    if (seen) {
        memcpy(l4, frame + v->l3 + header, sizeof(l4));
        seen = hs_glance_l4(l4, &found);
    }
    expected.vlan = 0;
    if (seen)
        CHECK(!v->fragment && v->l4 == v->l3 + header && hs_tuple_same(&expected, &found));
    else if (hs_has_ports(v->tuple.proto) || v->end - v->l4 >= 8)
        CHECK(reason_of(frame, v) != NONE);
    return seen;
}

/* As the switch does (switch/datagrams.bpf.h). */
static enum hs_kind remember(const struct hs_packet *p, enum hs_kind kind) {
    struct hs_datagram key;
    struct hs_first first;

    if (p->fragment == 1 && (kind == HS_FLOW || kind == HS_GROUP)) {
        hs_first(p, &key, &first);
        bpf_map_update_elem(&datagrams, &key, &first, BPF_ANY);
    }
    return kind;
}

static enum hs_kind fragment(struct hs_packet *p) {
    return remember(p, hs_fragment(p));
}

static enum hs_kind parse(struct __sk_buff *skb) {
    memset(&in_hand, 0, sizeof(in_hand));
    in_hand.key.vm = 1;
    return remember(&in_hand, hs_parse(skb, &in_hand, HS_ON | HS_ON_VLAN | HS_ON_ETHERTYPE, 1));
}

/* A later fragment that comes too late is not of the datagram that was remembered. What it says of
 * its protocol tells datagrams apart over IPv4, and counts for nothing over IPv6. */
static void datagrams_end(uint8_t family, uint64_t seconds) {
    struct hs_packet first = {.fragment = 1, .id = 7}, later, liar;

    first.key.tuple.family = family;
    first.key.tuple.proto = HS_IP_UDP;
    liar = later = first;
    liar.fragment = 2;
    liar.key.tuple.proto = HS_IP_TCP;
    first.key.tuple.sport = 5;
    later.fragment = 2;
    CHECK(fragment(&first) == HS_FLOW);
    now += (seconds - 1) * SECOND;
    CHECK(fragment(&later) == HS_FLOW && later.key.tuple.sport == 5);
    CHECK(fragment(&liar) == (family == 6 ? HS_FLOW : HS_ORPHAN));
    CHECK(liar.key.tuple.proto == (family == 6 ? HS_IP_UDP : HS_IP_TCP));
    first.key.tuple.sport = 6;
    CHECK(fragment(&first) == HS_CONFLICT);
    first.key.tuple.sport = 5;
    first.key.tuple.proto = HS_IP_TCP;
    CHECK(fragment(&first) == (family == 6 ? HS_CONFLICT : HS_FLOW));
    first.key.tuple.proto = HS_IP_UDP;
    first.key.tuple.sport = 6;
    later.key.tuple.sport = 0;
    now += SECOND;
    CHECK(fragment(&later) == HS_ORPHAN && later.unknown && later.key.tuple.sport == 0);
    CHECK(fragment(&first) == HS_FLOW);
    later.key.vm = 2; /* another VM's */
    CHECK(fragment(&later) == HS_ORPHAN);
}

int main(void) {
    uint64_t random = 11, alike = 0, malformed = 0, quick = 0, reasons[REASONS] = {0},
             kinds[7] = {0}, glances = 0;
    uint8_t *pages =
        mmap(LOW, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

    CHECK(pages != MAP_FAILED && (uintptr_t)pages < UINT32_MAX - 2 * PAGE);
    CHECK(mprotect(pages + PAGE, PAGE, PROT_NONE) == 0);
    datagrams_end(4, HS_FRAGMENT_SECONDS);
    datagrams_end(6, HS_FRAGMENT_SECONDS_6);
    for (uint32_t i = 0; i < FRAMES; i++) {
        struct __sk_buff skb = {0};
        uint8_t frame[FRAME_MAX], *at;
        enum hs_kind kind, again;
        struct hs_tuple fast;
        struct hs_view view;
        struct made made;
        const uint32_t len = make_frame(frame, &random, &made);
        int parsed, viewed;

        now += draw(&random) % (SECOND / 20);
        at = pages + PAGE - len;
        memcpy(at, frame, len);
        parsed = hs_flow_parse(at, len, &fast) == 0;
        viewed = hs_view_parse(at, len, &view) == 0;
        CHECK(parsed == (viewed && reason_of(at, &view) == NONE &&
                         !speaks_of_neighbours(at, &view, view.l3)));
        if (parsed) {
            CHECK(hs_tuple_same(&fast, &view.tuple));
            alike++;
        } else if (viewed) {
            reasons[reason_of(at, &view)]++;
        } else {
            malformed++;
        }
        if (viewed && view.tuple.family)
            glances += (uint64_t)at_a_glance(at, len, &view);
        skb.data = (uint32_t)(uintptr_t)at;
        skb.data_end = skb.data + len;
        skb.len = len;
        if (hs_quick(&skb, &in_hand, 1)) {
            CHECK(parsed && hs_tuple_same(&fast, &in_hand.key.tuple) && in_hand.key.vm == 1);
            same(HS_FLOW, at, &view, viewed, 0);
            quick++;
        }
        kind = parse(&skb);
        same(kind, at, &view, viewed, 0);
        kinds[kind]++;
        if (len >= 18 && (hs_load16(at + 12) == 0x8100 || hs_load16(at + 12) == 0x88a8)) {
            /* the outermost tag beside the frame, as a port of the switch gets it */
            skb.vlan_present = 1;
            skb.vlan_proto = (uint32_t)(uint16_t)(at[13] << 8 | at[12]);
            skb.vlan_tci = hs_load16(at + 14);
            memmove(at + 4, at, 12);
            skb.data += 4;
            skb.len -= 4;
            again = parse(&skb);
            if (kind == HS_DEEP) /* one tag of them is looked behind without being counted */
                continue;
            CHECK(again == kind || (kind == HS_MALFORMED && again == HS_FLOW));
            if (again == kind)
                same(again, at + 4, &view, viewed, 4);
        }
    }
    CHECK(alike > FRAMES / 20 && malformed > FRAMES / 20 && quick > FRAMES / 50);
    CHECK(glances > alike);
    for (int why = GROUP; why < REASONS; why++)
        CHECK(reasons[why] > FRAMES / 500);
    for (int kind = HS_FLOW; kind <= HS_CONFLICT; kind++)
        CHECK(kinds[kind] > FRAMES / 10000);
    CHECK(recalled > FRAMES / 5000 && conflicts > 0);
    return 0;
}
