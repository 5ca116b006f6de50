// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The switch's classifier.
 *
 *   classify      tc ingress of each port of the switch: next VM of the flow's chain, or bridge
 * The VMs' transfer component, which shares its maps, is in switch/transfer.bpf.h; what the daemon
 * runs is in switch/daemon.bpf.h.
 *
 * Counting is of skbs as they pass: a GSO super-packet counts one, with all its bytes. */
#include "switch/daemon.bpf.h"
#include "switch/decide.bpf.h"
#include "switch/frame.bpf.h"
#include "switch/neighbours.bpf.h"
#include "switch/stray.bpf.h"
#include "switch/transfer.bpf.h"
#include "switch/unfinished.bpf.h"
#include "switch/wait.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Into the eth0 of router `to`, past its port, which does not take the frame; but not past an
 * impaired link (switch/impair.bpf.c). */
static __always_inline int hs_past_port(struct __sk_buff *skb, __u32 to, const struct hs_vm *vm) {
    __u32 from = skb->ifindex - HS_IFINDEX;
    struct hs_vm *own = bpf_map_lookup_elem(&vms, &from);

    if (!own || !((vm->flags | own->flags) & HS_VM_IMPAIRED))
        return bpf_redirect_peer(HS_IFINDEX + to, 0);
    skb->mark = HS_MARK_LONG;
    return bpf_redirect(HS_IFINDEX + to, 0);
}

/* Out by the port of VM `to`, addressed to it if it routes (IP only). A router gets also what its
 * port does not take: it alone can tell the sender (RFC 1191, RFC 8201), or cut it (RFC 791). */
static __always_inline int hs_steer(struct __sk_buff *skb, __u32 to, int ip) {
    struct hs_vm *vm = bpf_map_lookup_elem(&vms, &to);

    if (!vm)
        return hs_dropped(skb, HS_C_VM_GONE | HS_DROP_COUNTED);
    if (vm->flags & HS_VM_ROUTES && ip)
        hs_address(skb, vm);
    if (vm->flags & HS_VM_ROUTES && ip && hs_too_long(skb, vm))
        return hs_past_port(skb, to, vm);
    return bpf_redirect(HS_IFINDEX + to, 0);
}

/* Ask the daemon for the direct link of two VMs, once. */
static __noinline int hs_ask_pair(__u32 from, __u32 to) {
    __u32 pair = from << 12 | to, state = HS_PAIR_ASKED;
    struct hs_event *event;

    if (bpf_map_update_elem(&pairs, &pair, &state, BPF_NOEXIST) < 0)
        return 0;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event) {
        hs_count(HS_C_EVENTS_LOST);
        bpf_map_delete_elem(&pairs, &pair);
        return 0;
    }
    event->kind = HS_EVENT_PAIR;
    event->from = from;
    event->to = to;
    bpf_ringbuf_submit(event, 0);
    return 0;
}

/* Give the sending VM a routing rule for a hop the switch has seen enough of. */
static __noinline int hs_offer_rule(__u32 vm, struct hs_flow *flow, __u64 verdict) {
    __u32 to = hs_to_of(verdict), pair = vm << 12 | to, *state;
    struct hs_rule *rule = &flow->rule;

    state = bpf_map_lookup_elem(&pairs, &pair);
    if (!state)
        return hs_ask_pair(vm, to);
    if (*state != HS_PAIR_READY)
        return 0;
    if (!rule->switch_packets && !rule->veth_packets) /* the VM has no transfer component */
        return 0;
    WRITE_ONCE(rule->verdict, verdict);
    hs_barrier();
    if (READ_ONCE(flow->verdict) != verdict) { /* it became stale meanwhile: the rule too */
        WRITE_ONCE(rule->verdict, 0);
        return 0;
    }
    hs_count(HS_C_RULES);
    return 0;
}

static __always_inline void hs_redecide(struct hs_flow *known, const struct hs_flow *fresh) {
    known->route = fresh->route;
    known->reply = fresh->reply;
    known->position = fresh->position;
    known->mirror = fresh->mirror;
    known->asked = 0;
    WRITE_ONCE(known->verdict, fresh->verdict);
}

/* What hs_slow says of a packet that may pass, besides HS_DECIDED. */
enum { HS_COUNTED = -2 };

/* What becomes of a packet, if its flow's verdict is this: a frame to a group cannot be steered,
 * for it is to more than one. */
static __always_inline __u64 hs_for_frame(const struct hs_packet *p, __u64 verdict) {
    __u8 flags = (hs_flags_of(verdict) & ~HS_F_BYPASS) | HS_F_IN_GROUP;

    if (!p->group || hs_action_of(verdict) != HS_STEER)
        return verdict;
    return hs_verdict(hs_epoch_of(verdict), flags, HS_DROP, 0);
}

/* The count of a flow's packets that a verdict drops. */
static __always_inline __u64 *hs_dropped_of(struct hs_flow *flow, __u64 verdict) {
    if (hs_flags_of(verdict) & HS_F_IN_GROUP)
        return &flow->dropped[HS_BY_GROUP];
    if (hs_flags_of(verdict) & HS_F_VM_GONE)
        return &flow->dropped[HS_BY_GONE];
    return &flow->dropped[HS_BY_FILTER];
}

/* Remember the flow of the packet in hand. Returns whether this packet made its entry. */
static __noinline int hs_put_flow(struct hs_flow *fresh) {
    struct hs_scratch *work = hs_scratch();
    struct hs_packet *p = hs_packet();

    if (!p || !work || !fresh)
        return 0;
    fresh->charged = work->conn.charged ? work->conn.charged : p->key.vm;
    if (!hs_take(fresh->charged, HS_OF_FLOWS, HS_SHARE))
        return 0;
    if (bpf_map_update_elem(&flows, &p->key, fresh, BPF_NOEXIST) == 0)
        return 1;
    hs_give(fresh->charged, HS_OF_FLOWS);
    return 0;
}

/* The first packet of a flow at a port, or the first under a new epoch, or one of an old. known:
 * the flow's entry, or null. Returns why the packet is dropped (enum hs_counter), HS_DECIDED, or
 * HS_COUNTED: the flow has an entry now, made with this packet in its counts, so that a flow of one
 * packet costs one access to it. */
HS_GLOBAL int hs_slow(struct __sk_buff *skb, __u32 epoch, struct hs_flow *known, __u64 *verdict) {
    struct hs_packet *p = hs_packet();
    struct hs_scratch *work = hs_scratch();
    struct hs_policy *policy;
    int result = HS_DECIDED;
    struct hs_flow *fresh;
    __u32 age;

    if (!p || !verdict || !work)
        return HS_C_MALFORMED;
    fresh = &work->flow;
    __builtin_memset(fresh, 0, sizeof(*fresh));
    policy = hs_policy_of(skb, &p->key, epoch, &age);
    if (!policy)
        return HS_C_STALE;
    hs_decide(policy, age ? HS_OLD : HS_NEWEST, fresh);
    if (age && hs_flags_of(fresh->verdict) & HS_F_START) /* its chain does not hold this VM */
        return HS_C_STALE;
    *verdict = fresh->verdict;
    if (age) {
        hs_count(HS_C_OLD_EPOCH);
        return HS_DECIDED;
    }
    if (work->refused && (work->conn.undecided || hs_action_of(fresh->verdict) == HS_STEER))
        return HS_C_NO_SHARE; /* its next hop would not know whose it is, nor its reply the way */
    if (known) {
        if (known->verdict == fresh->verdict && known->route == fresh->route)
            return HS_DECIDED;
        hs_redecide(known, fresh);
    } else {
        fresh->last = bpf_ktime_get_coarse_ns();
        fresh->packets = 1;
        fresh->bytes = skb->len;
        if (hs_action_of(hs_for_frame(p, fresh->verdict)) == HS_DROP)
            *hs_dropped_of(fresh, hs_for_frame(p, fresh->verdict)) = 1;
        if (hs_put_flow(fresh)) {
            result = HS_COUNTED;
        } else {
            known = bpf_map_lookup_elem(&flows, &p->key);
            if (!known && hs_flags_of(fresh->verdict) & HS_F_INSPECT)
                return HS_C_NO_SHARE; /* nobody would ask for its contents again */
            if (!known) {
                hs_count(HS_C_TABLE_FULL);
                return HS_DECIDED;
            }
            hs_redecide(known, fresh); /* another CPU was first */
        }
    }
    if (!hs_holds()) /* the next packet is judged again */
        hs_stale(p->key.vm, 0);
    return result;
}

/* Send bytes of a packet's contents to the daemon: `size` of them from `at`, or as many as one
 * event takes. Returns how many; 0: the ring buffer was full, or the VM's share of it. */
HS_GLOBAL int hs_send_part(struct __sk_buff *skb, __u32 at, __u32 size, __u32 sequence,
                           struct hs_flow *flow) {
    struct hs_packet *p = hs_packet();
    struct hs_content *content;
    struct hs_entries *own;
    __u32 length = size;

    if (!p || !flow || !size)
        return 0;
    if (length > HS_CONTENT_MAX)
        length = HS_CONTENT_MAX;
    own = bpf_map_lookup_elem(&shares, &p->key.vm);
    content = own && hs_may_ask(p->key.vm) ? bpf_ringbuf_reserve(&events, sizeof(*content), 0) : 0;
    if (!content) {
        hs_count(HS_C_EVENTS_LOST);
        return 0;
    }
    content->event.kind = HS_EVENT_CONTENT;
    content->event.from = p->key.vm;
    content->event.to = flow->asked + 1;
    content->tuple = p->key.tuple;
    content->sequence = sequence;
    content->start = flow->start;
    content->rest = size - length;
    length--;
    asm("" : "+r"(length)); /* or the bound that the verifier wants is optimised away */
    length = (length & (HS_CONTENT_MAX - 1)) + 1;
    if (bpf_skb_load_bytes(skb, at, content->data, length) < 0) {
        bpf_ringbuf_discard(content, 0);
        return 0;
    }
    content->length = length;
    __sync_fetch_and_add(&own->contents, sizeof(*content));
    bpf_ringbuf_submit(content, 0);
    hs_count(HS_C_ASKED);
    return length;
}

/* Send the first bytes of what TCP or UDP carries to the daemon. Gives up after HS_ASK_MAX packets
 * with contents; how many went up is in `asked`. What found the ring buffer full does not count. */
HS_GLOBAL int hs_inspect(struct __sk_buff *skb) {
    struct hs_packet *p = hs_packet();
    __u32 at, size, sequence = 0;
    struct hs_flow *flow;
    __u8 head[14];

    if (!p || !p->l4 || p->error || p->fragment == 2)
        return 0;
    flow = bpf_map_lookup_elem(&flows, &p->key);
    if (!flow || flow->asked >= HS_ASK_MAX)
        return 0;
    if (p->key.tuple.proto == IPPROTO_TCP) {
        if (bpf_skb_load_bytes(skb, p->l4, head, 14) < 0)
            return 0;
        at = p->l4 + (head[12] >> 4) * 4;
        sequence = (__u32)head[4] << 24 | head[5] << 16 | head[6] << 8 | head[7];
        if (head[13] & HS_TCP_SYN) {
            sequence++;
            if (!flow->asked)
                flow->start = sequence;
        }
    } else if (p->key.tuple.proto == IPPROTO_UDP) {
        at = p->l4 + 8;
    } else {
        return 0;
    }
    if (at >= p->end)
        return 0;
    size = p->end - at;
    if (size > HS_CONTENT_MAX * HS_CONTENT_PARTS)
        size = HS_CONTENT_MAX * HS_CONTENT_PARTS;
    for (int i = 0; i < HS_CONTENT_PARTS && size; i++) {
        __u32 sent = hs_send_part(skb, at, size, sequence, flow);

        if (!sent)
            return 0;
        at += sent;
        size -= sent;
        sequence += sent;
    }
    flow->asked++;
    return 0;
}

/* Count a packet of a flow. Returns which of its packets at this port it is, from 1. */
static __always_inline __u64 hs_count_packet(struct __sk_buff *skb, struct hs_flow *flow,
                                             __u64 verdict) {
    __u64 before = __sync_fetch_and_add(&flow->packets, 1);

    __sync_fetch_and_add(&flow->bytes, skb->len);
    flow->last = bpf_ktime_get_coarse_ns();
    if (hs_action_of(verdict) == HS_DROP)
        __sync_fetch_and_add(hs_dropped_of(flow, verdict), 1);
    return before + 1;
}

/* See to the hop's direct link, at the flow's packet number `nth`: the VMs get the link while the
 * first packets go by the switch, and the flow a rule for it after them. */
static __always_inline void hs_see_to_link(__u32 vm, struct hs_flow *flow, __u64 verdict,
                                           __u32 epoch, __u64 nth) {
    if (!(hs_flags_of(verdict) & HS_F_BYPASS) || hs_action_of(verdict) != HS_STEER ||
        hs_epoch_of(verdict) != epoch)
        return;
    if (nth == 1)
        hs_ask_pair(vm, hs_to_of(verdict));
    else if (nth >= HS_RULE_AFTER && flow && flow->rule.verdict != verdict)
        hs_offer_rule(vm, flow, verdict);
}

/* What comes of a packet that has been decided and counted: it is steered, dropped, or bridged; and
 * the daemon or a mirror may get a copy. flow: null if there was no place for it. booked: it counts
 * in the flow's entry (HS_DROP_BOOKED), or in none (0). */
static __always_inline int hs_act(struct __sk_buff *skb, struct hs_packet *packet,
                                  struct hs_flow *flow, __u64 verdict, __u32 booked) {
    __u8 flags = hs_flags_of(verdict), action = hs_action_of(verdict);

    if (flags & HS_F_INSPECT)
        hs_inspect(skb);
    if (action != HS_BRIDGE) /* the bridge is the end of it: nobody asks again */
        hs_tag(skb, &packet->key.tuple, hs_epoch_of(verdict));
    if (flow && flags & HS_F_START && flow->mirror &&
        bpf_clone_redirect(skb, HS_IFINDEX + flow->mirror, 0) == 0)
        hs_count(HS_C_MIRRORED);
    switch (action) {
    case HS_STEER:
        if (packet->fragment == 1 && !hs_pass_on(hs_to_of(verdict))) {
            if (!flow) /* the first packet of its flow: there since a moment, if there is room */
                flow = bpf_map_lookup_elem(&flows, &packet->key);
            if (flow && booked)
                __sync_fetch_and_add(&flow->dropped[HS_BY_SHARE], 1);
            return hs_dropped(skb, HS_C_NO_SHARE | booked);
        }
        return hs_steer(skb, hs_to_of(verdict), packet->key.tuple.family);
    case HS_DROP:
        if (flags & HS_F_IN_GROUP)
            return hs_dropped(skb, HS_C_UNICAST_IN_GROUP | booked);
        return hs_dropped(skb, (flags & HS_F_VM_GONE ? HS_C_VM_GONE : HS_C_FILTER) | booked);
    default:
        return TC_ACT_OK;
    }
}

/* Have a fragment wait for its first one, which has `tries` behind it. Returns whether it does:
 * then it goes to HS_WAIT_TAP. */
static __always_inline int hs_wait(struct __sk_buff *skb, __u32 tries) {
    struct hs_line_head head = {.magic = HS_LINE_MAGIC};
    __u32 vm = skb->ifindex - HS_IFINDEX;
    struct hs_entries *own = bpf_map_lookup_elem(&shares, &vm);

    if (!own || tries >= HS_WAIT_TRIES)
        return 0;
    head.due = bpf_ktime_get_ns();
    if (!tries) {
        if (own->turn != head.due >> HS_WAIT_TURN) {
            own->turn = head.due >> HS_WAIT_TURN;
            own->waits = 0;
        }
        if (__sync_fetch_and_add(&own->waits, 1) >= HS_WAIT_EACH)
            return 0;
    }
    head.due += HS_WAIT_NS;
    head.port = HS_WAIT_TAP | vm << 16 | (tries + 1) << (16 + HS_WAIT_TRY);
    return bpf_skb_change_head(skb, sizeof(head), 0) == 0 &&
           bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0) == 0;
}

/* A fragment has waited, and belongs to a flow now. The transfer component that it came by could
 * not know of which. */
static __noinline void hs_has_waited(void) {
    struct hs_packet *p = hs_packet();
    struct hs_flow *flow;
    struct hs_vm *vm;

    if (!p)
        return;
    flow = bpf_map_lookup_elem(&flows, &p->key);
    vm = bpf_map_lookup_elem(&vms, &p->key.vm);
    if (flow && !(vm && vm->flags & HS_VM_PORT) &&
        (flow->rule.switch_packets || flow->rule.veth_packets))
        __sync_fetch_and_add(&flow->rule.switch_packets, 1);
}

/* At the exit of HS_WAIT_TAP: a fragment has waited, and comes in by its port again. */
SEC("tc")
int come_again(struct __sk_buff *skb) {
    if (!hs_is_marked(skb->mark))
        return TC_ACT_OK;
    return bpf_redirect(HS_IFINDEX + (skb->mark & HS_VM_MAX), BPF_F_INGRESS);
}

SEC("tc")
int classify(struct __sk_buff *skb) {
    struct hs_packet *packet = hs_packet();
    struct hs_flow *flow;
    struct hs_config *now;
    __u32 zero = 0, tries = 0, epoch;
    int reason = HS_DECIDED, kind = HS_FLOW;
    __u64 verdict, nth = 1;

    if (skb->mark == HS_MARK_LONG) { /* no VM's own: marks end with a namespace */
        skb->mark = 0;
        return bpf_redirect_peer(skb->ifindex, 0);
    }
    if (hs_is_marked(skb->mark)) {
        tries = (skb->mark & 0xffff) >> HS_WAIT_TRY;
        skb->mark = 0;
    }
    now = bpf_map_lookup_elem(&config, &zero);
    if (!now || !packet)
        return TC_ACT_OK;
    if (!now->on && skb->protocol == bpf_htons(ETH_P_IP)) /* it speaks of no neighbours */
        return TC_ACT_OK;
    epoch = READ_ONCE(now->epoch);
    if (!hs_quick(skb, packet, skb->ifindex - HS_IFINDEX))
        kind = hs_flow_of(skb, skb->ifindex - HS_IFINDEX, now->on);
    if (!now->on && kind != HS_PLAIN && kind != HS_DEEP && kind != HS_MALFORMED)
        return TC_ACT_OK;
    if (hs_overwrites(skb))
        return hs_dropped(skb, HS_C_MALFORMED);
    switch (kind) {
    case HS_FLOW:
        break;
    case HS_GROUP:
    case HS_ORPHAN:
        reason = hs_stray(skb, epoch);
        flow = bpf_map_lookup_elem(&strays, &zero);
        if (reason == HS_C_ORPHAN_FRAGMENT && now->on & HS_ON_WAIT && packet->unknown == 1 &&
            hs_wait(skb, tries))
            return bpf_redirect(HS_WAIT_TAP, 0);
        if (reason >= 0 || !flow)
            return hs_dropped(skb, reason);
        verdict = hs_for_frame(packet, flow->verdict);
        if (hs_action_of(verdict) == HS_BRIDGE)
            hs_count(HS_C_PLAIN);
        return hs_act(skb, packet, flow, verdict, 0);
    case HS_MALFORMED:
        return hs_dropped(skb, HS_C_MALFORMED);
    case HS_DEEP:
        return hs_dropped(skb, HS_C_DEEP_TAGS);
    case HS_CONFLICT:
        return hs_dropped(skb, HS_C_FRAGMENT_CONFLICT);
    case HS_NO_ROOM:
        return hs_dropped(skb, HS_C_NO_SHARE);
    default:
        if (hs_deceives(skb))
            return hs_dropped(skb, HS_C_SPOOFED);
        hs_count(HS_C_PLAIN);
        return TC_ACT_OK;
    }
    flow = bpf_map_lookup_elem(&flows, &packet->key);
    verdict = flow ? READ_ONCE(flow->verdict) : 0;
    if (!flow || hs_epoch_of(verdict) != epoch || hs_begins(packet) ||
        (hs_age(skb, &packet->key.tuple, epoch) && !(hs_flags_of(verdict) & HS_F_START))) {
        reason = hs_slow(skb, epoch, flow, &verdict);
        if (reason >= 0)
            return hs_dropped(skb, reason);
        if (!flow && (reason != HS_COUNTED || hs_flags_of(verdict) & HS_F_MIRROR))
            flow = bpf_map_lookup_elem(&flows, &packet->key);
    }
    verdict = hs_for_frame(packet, verdict);
    if (packet->tcp_flags & (HS_TCP_FIN | HS_TCP_RST) && hs_flags_of(verdict) & HS_F_START)
        hs_close();
    if (reason != HS_COUNTED)
        nth = flow ? hs_count_packet(skb, flow, verdict) : 0;
    if (tries)
        hs_has_waited();
    hs_see_to_link(packet->key.vm, flow, verdict, epoch, nth);
    return hs_act(skb, packet, flow, verdict, flow || reason == HS_COUNTED ? HS_DROP_BOOKED : 0);
}
