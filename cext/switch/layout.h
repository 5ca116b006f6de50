// SPDX-License-Identifier: Apache-2.0
/* What the BPF data plane and the daemon agree on: the layout of every map's key and value.
 *
 * Included by the BPF programs (switch/classifier.bpf.c) and by the extension module, whose
 * compiler checks the declarations of switch/layout.cdef against it. Everything is in host byte
 * order except addresses and ports, which are as in the packet.
 *
 * Interfaces are found by arithmetic, not by look-up, because hostsim chooses their numbers:
 *   VM number v (1..HS_VM_MAX): its port in the switch: HS_IFINDEX + v;
 *   its eth0, in the VM: HS_ETH0 + v;
 *   the direct link towards VM p in VM v: HS_DIRECT | v << 12 | p.
 * Port and eth0 have two numbers, since the kernel is slow to tell of a link whose ends have the
 * same one (linkwatch takes it for no part of a stack: once a second), and eth0 has no IPv6 before
 * that. */
#ifndef HS_DATAPLANE_H
#define HS_DATAPLANE_H

#include "flow/tuple.h"

enum {
    HS_IFINDEX = 10000,
    HS_ETH0 = 20000,
    HS_DIRECT = 1 << 24,
    HS_VM_MAX = 4095,
    HS_CHAIN_MAX = 16,  /* VMs of one route */
    HS_EPOCHS = 4,      /* policies that packets in flight may still be judged by */
    HS_REGIONS = 5,     /* places for a policy's rows: one more than epochs, so one is free */
    HS_ROWS_MAX = 2048, /* rows of one policy */
    HS_PREFIXES = 4,    /* per row; a longer list takes more rows */
    HS_RANGES = 8,
    HS_FROM = 8,
    HS_NO_ROUTE = 0xffff,
    HS_RULE_AFTER = 3, /* packets the switch wants to have seen before it gives a rule */
    HS_FLOWS_MAX = 1 << 20,
    HS_CONNS_MAX = 1 << 18,
    HS_EVENTS_MAX = 1 << 20,  /* bytes of the ring buffer to the daemon */
    HS_DATAGRAMS_EACH = 8192, /* of one VM, at most; a power of two */
    HS_SHARE = 7,             /* times what is free is what one VM may have: switch/shares.bpf.h */
    HS_SHARE_PLAIN = 1,       /* likewise, of connections that no route concerns */
};

enum hs_action {
    HS_BRIDGE = 0, /* to the bridge: no route, or past the last VM */
    HS_STEER = 1,  /* to VM `to` */
    HS_DROP = 2,   /* its VM is gone and the route says drop, or a filter */
};

/* A decision, read and written whole (one aligned 64-bit word):
 * epoch << 32 | flags << 24 | action << 16 | to */
enum {
    HS_F_BYPASS = 1, /* the hop may have a routing rule */
    HS_F_START = 2,  /* the flow enters its chain here: packets take the newest epoch */
    HS_F_MIRROR = 4,
    HS_F_VM_GONE = 8,   /* dropped or skipped because a VM is gone */
    HS_F_INSPECT = 16,  /* its contents may decide differently: the daemon wants to see them */
    HS_F_UNSEEN = 64,   /* its contents will never be known: it goes where any name might send it */
    HS_F_IN_GROUP = 32, /* dropped: would be steered, but its frame is to a group; in no table */
};

/* What the VM's transfer component knows of a flow. verdict: the routing rule, its epoch and `to`;
 * 0: no rule, everything goes to the switch. */
struct hs_rule {
    __u64 verdict;
    __u32 used; /* the mark (hs_mark) of the verdict that packets go by the direct link for */
    __u32 lost; /* of switch_packets, those known not to be under way any more, modulo 2^32 */
    __u64 veth_packets, veth_bytes; /* that the VM sent by the direct link */
    __u64 got_packets;              /* that the other end of the direct link took */
    __u64 switch_packets;           /* that the VM sent by the switch */
};
_Static_assert(sizeof(struct hs_rule) == 48, "no padding");

/* Why a packet of a flow is dropped that counts as one of its `packets`. */
enum hs_dropped_by {
    HS_BY_FILTER,
    HS_BY_GONE,  /* a VM is gone */
    HS_BY_GROUP, /* HS_F_IN_GROUP */
    HS_BY_SHARE, /* a first fragment, and its VM has no room for more */
    HS_BY_NAMES,
};

/* `flows`, by struct hs_key. A flow's one entry: what leaves the VM finds it, and a moment later
 * the port, still in the cache. verdict: the port's; 0: not decided yet. New flows cost what their
 * entries' memory costs. */
struct hs_flow {
    struct hs_rule rule;
    __u64 last; /* when it was seen last, here or there: CLOCK_MONOTONIC_COARSE, ns */
    __u64 verdict;
    __u64 packets, bytes; /* that came in by this port */
    __u16 route;          /* index, or HS_NO_ROUTE */
    __u8 reply;           /* 1: against the chain's order */
    __u8 position;        /* index in the chain of the VM it goes to */
    __u16 mirror;         /* VM that gets a copy; 0: none */
    __u8 asked;           /* packets whose contents went to the daemon */
    __u8 pad;
    __u16 charged; /* the VM whose share the entry is of; 0: nobody's */
    __u16 pad2;
    __u32 start;                /* TCP's number of the first byte of its contents; 0: not known */
    __u64 dropped[HS_BY_NAMES]; /* of `packets`, those dropped here: enum hs_dropped_by */
};
_Static_assert(sizeof(struct hs_flow) == 128, "no padding");

/* `ended`, by VM: the sums of what it sent in flows that have been swept. */
struct hs_ended {
    __u64 flows;
    __u64 switch_packets, veth_packets, got_packets; /* see struct hs_rule */
    __u64 packets, dropped[HS_BY_NAMES];             /* see struct hs_flow */
};
_Static_assert(sizeof(struct hs_ended) == 72, "no padding");

/* `shares`, by VM: the entries it has, and the bytes of contents that have gone up on its account.
 * How many of these the daemon has taken stands in `taken`, which the daemon writes. */
struct hs_entries {
    __u64 flows, conns, contents, datagrams;
    __u64 oldest, next; /* places of its datagrams: switch/datagrams.bpf.h */
    __u64 turn, waits;  /* fragments that began to wait in this turn: switch/wait.h */
};

/* How long a connection is remembered after its last packet, in seconds. As Linux's connection
 * tracking has them (nf_conntrack-sysctl), and RFC 5382's shortest for who has little room. */
enum {
    HS_LIFE_UNANSWERED = 30,
    HS_LIFE_ANSWERED = 180,
    HS_LIFE_OPENING = 120, /* TCP: from the SYN to the first packets behind the answer */
    HS_LIFE_OPEN = 432000,
    HS_LIFE_CLOSED = 120, /* both sides have closed it */
    HS_LIFE_RESET = 10,
    /* of a VM that has more than are free: those without an answer go first */
    HS_LIFE_UNANSWERED_PRESSED = 5,
    HS_LIFE_OPEN_PRESSED = 7440,
};
enum { HS_OPEN_AFTER = 3 }; /* packets of its beginner that make an answered connection open */

/* What a connection has come to. A direction is the key's, or the other one (BACK). */
enum {
    HS_CONN_OPEN = 1, /* it was answered, and went on */
    HS_CONN_CLOSED = 2,
    HS_CONN_CLOSED_BACK = 4,
    HS_CONN_RESET = 8,
    HS_CONN_OVER = HS_CONN_CLOSED | HS_CONN_CLOSED_BACK,
};

/* `conns`: a connection. Its key is the tuple of one of its directions, whose end with the smaller
 * address and port is the source: one entry for both. What is said of a direction here is of the
 * key's; hs_find_conn turns it to the packet's. How it is changed: switch/conns.bpf.h. */
struct hs_conn {
    __u64 last;
    __u32 policy, old_policy; /* the policies `route` and `old_route` come from */
    __u16 route, old_route;
    __u16 from;     /* the VM whose port the packet came in by that it is judged by; 0: unknown */
    __u16 back;     /* the VM whose port the other direction came in by last; 0: none yet */
    __u8 reply : 1; /* 1: the key is the replies' tuple, by the route; */
    __u8 old_reply : 1; /* by the old route */
    __u8 turned : 1;    /* 1: the packet that it is judged by went the other way */
    __u8 hearsay : 1;   /* 1: that packet had the address of another VM than it came from */
    __u8 undecided : 1; /* 1: a row that asks for contents stands before the row that matched */
    __u8 tcp_flags;     /* that packet's */
    __u8 dscp;          /* likewise */
    __u8 state;         /* HS_CONN_*; it is written in place, for nothing worse hangs on it */
    __u16 owner;        /* for a walk: the VM that has the source's address; 0: unknown */
    __u16 charged;      /* the VM whose share the entry is of */
    union {
        __u64 told; /* both, to compare and swap */
        struct {
            __u32 content; /* the name its contents told, by number; 0: none yet; HS_NO_CONTENT,
                              HS_UNSEEN_CONTENT: never */
            __u32 version; /* another one with each change; 0: somebody is changing it */
        };
    };
};
_Static_assert(sizeof(struct hs_conn) == 40, "no padding");

/* `owners`: the VM or endpoint that has an address, by the host file. The value's upper half: who
 * has it as well, while it moves from one to the other; 0: nobody. */
struct hs_address {
    __u8 address[16]; /* as in struct hs_tuple */
    __u32 family;     /* 4 or 6 */
};
_Static_assert(sizeof(struct hs_address) == 20, "hash key without padding");

struct hs_prefix {
    __u32 addr[4], mask[4]; /* network order */
};

/* One row of a policy: everything that is given must hold. A list that is not given, and an unused
 * place of one, is filled so that the walk needs no length: a range 1..0 and a prefix with bits
 * outside its mask hold nothing; if a list is not given, its first place holds everything. */
enum { HS_ROW_SPORT = 1, HS_ROW_DPORT = 2 };
#define HS_NO_CONTENT 0xffffffffu
#define HS_UNSEEN_CONTENT 0xfffffffeu /* it may be any: it matches every row that asks for one */

struct hs_row {
    struct hs_prefix src[HS_PREFIXES], dst[HS_PREFIXES];
    __u16 sport[HS_RANGES][2], dport[HS_RANGES][2]; /* inclusive, host order */
    __u16 from[HS_FROM];                            /* VM numbers */
    __u8 any_from;                                  /* 1: from is not given */
    __u8 ports;                                     /* HS_ROW_*: which of the two are given */
    __u8 family;                                    /* 4, 6, 0: either */
    __u8 dscp;                                      /* + 1; 0: anything */
    __u16 proto;                                    /* IANA number + 1; 0: anything */
    __u16 route;                                    /* of a mirror: the VM that gets the copy */
    __u16 vlan;                                     /* 0: untagged frames only */
    __u16 ethertype;                                /* network order; 0: IP */
    __u8 tcp_mask, tcp_want;
    __u8 content; /* 1: the name must be in `names` */
    __u8 pad;
};

/* `names`: a name matches a row (its index in `rows`). */
struct hs_name {
    __u32 content, row;
};

/* A policy, at epoch % HS_EPOCHS. */
struct hs_policy {
    __u32 epoch;
    __u32 policy; /* changes only when the routes change; the epoch also when a VM goes */
    __u32 region; /* its rows start at region * HS_ROWS_MAX, its routes likewise */
    __u32 rows, filters, mirrors; /* how many of each; they stand in this order */
    __u32 pad;
};

enum { HS_ON_FAILURE_DROP = 0, HS_ON_FAILURE_SKIP = 1 };

struct hs_route {
    __u8 length;
    __u8 bypass; /* 1: hops may have rules */
    __u8 on_failure;
    __u8 pad;
    __u16 chain[HS_CHAIN_MAX]; /* VM numbers */
};
_Static_assert(sizeof(struct hs_route) == 36, "no padding");

enum {
    HS_VM_ALIVE = 1,
    HS_VM_ROUTES = 2,     /* frames to it carry its MAC address */
    HS_VM_ENDPOINT = 4,   /* outside: what it says of epochs is not believed */
    HS_VM_ON_SWITCH = 8,  /* the switch must see its packets: no rule to or from it */
    HS_VM_PORT = 16,      /* its transfer component is a port: the daemon ages its flows */
    HS_VM_UNLIKE = 32,    /* its network is not as it was made: no rule to or from it is used */
    HS_VM_ROUTER = 64,    /* it may advertise itself as a router */
    HS_VM_IMPAIRED = 128, /* its link is impaired, in one direction at least */
};

struct hs_vm {
    __u8 mac[6];
    __u16 longest; /* bytes of a frame that its port takes, with a tag; 0: not told */
    __u8 flags;
    __u8 pad;
};
_Static_assert(sizeof(struct hs_vm) == 10, "no padding");

/* `pairs`, by from << 12 | to: the direct link between two VMs. */
enum { HS_PAIR_ASKED = 1, HS_PAIR_READY = 2, HS_PAIR_REFUSED = 3 };

struct hs_config {
    __u32 epoch;
    __u32 on; /* HS_ON_*; 0: no policy at all, everything is bridged */
};

/* `counters`, per CPU: packets by reason. COUNTERS in switch/records.py has this order. */
enum hs_counter {
    HS_C_PLAIN,             /* not for the classifier: broadcast, multicast, ARP, ND, not IP */
    HS_C_MALFORMED,         /* dropped: lengths that lie */
    HS_C_ORPHAN_FRAGMENT,   /* dropped: a fragment whose first fragment did not come in time */
    HS_C_VM_GONE,           /* dropped: its next VM is gone */
    HS_C_FILTER,            /* dropped by a filter */
    HS_C_STALE,             /* dropped: in flight since before the last policies */
    HS_C_TABLE_FULL,        /* decided, but not remembered */
    HS_C_OLD_EPOCH,         /* judged by the policy it came in under */
    HS_C_FORGED,            /* dropped: came by a direct link without a rule */
    HS_C_RULES,             /* rules given */
    HS_C_EVENTS_LOST,       /* the ring buffer to the daemon was full */
    HS_C_ASKED,             /* contents sent to the daemon */
    HS_C_MIRRORED,          /* copies made */
    HS_C_DEEP_TAGS,         /* dropped: behind more VLAN tags than are looked behind */
    HS_C_UNICAST_IN_GROUP,  /* dropped: has a route, but its frame is to a group */
    HS_C_FRAGMENT_CONFLICT, /* dropped: a datagram's second first fragment, with other ports */
    HS_C_NO_SHARE,          /* dropped: new, of a VM that has all of its share */
    HS_C_SPOOFED,           /* dropped: speaks of neighbours against the host file */
    HS_REASONS,
};

enum { HS_EVENT_PAIR = 1, HS_EVENT_CONTENT = 2 };
/* A packet goes up in parts, so that a whole TLS record does: 16 KB. */
enum { HS_CONTENT_MAX = 2048, HS_ASK_MAX = 8, HS_CONTENT_PARTS = 8 };

/* What goes up to the daemon through the ring buffer. */
struct hs_event {
    __u32 kind;
    __u16 from, to; /* HS_EVENT_PAIR: VM numbers */
};

/* HS_EVENT_CONTENT: bytes above TCP's or UDP's header. */
struct hs_content {
    struct hs_event event;
    struct hs_tuple tuple;
    __u32 sequence; /* TCP's, host order */
    __u32 start;    /* see struct hs_flow */
    __u32 rest;     /* bytes of the packet that come in further events */
    __u32 length;
    __u8 data[HS_CONTENT_MAX];
};

/* `judged`: a first packet, and what the newest policy says of it. */
struct hs_judge {
    struct hs_key key;
    __u8 tcp_flags, dscp;
    __u16 route;   /* out */
    __u64 verdict; /* out */
    __u8 reply;    /* out */
    __u8 pad[7];
};
_Static_assert(sizeof(struct hs_judge) == 64, "no padding");

/* The context of the `tell` program. */
struct hs_tell {
    struct hs_tuple key; /* of `conns` */
    __u32 content;
};
enum { HS_TELL_UNKNOWN, HS_TELL_DONE, HS_TELL_AGAIN };

/* The keys that one run of the `sweep` program looks at, of one table: `swept`. While a program
 * runs, its processor runs nothing else (on a kernel that is not fully preemptible), so runs are
 * short. */
enum {
    HS_SWEPT = 512,
    HS_DATAGRAM_SIZE = 44, /* of the keys and values of `datagrams` (flow/packet.bpf.h) */
    HS_FIRST_SIZE = 24,
};
union hs_swept {
    struct hs_key flows[HS_SWEPT];
    struct hs_tuple conns[HS_SWEPT];
    __u8 datagrams[HS_SWEPT][HS_DATAGRAM_SIZE];
};
enum { HS_SWEEP_FLOWS, HS_SWEEP_CONNS, HS_SWEEP_DATAGRAMS };

/* The context of the `sweep` program. */
struct hs_sweep {
    __u64 now;                 /* CLOCK_MONOTONIC, ns */
    __u64 flow_idle;           /* ns */
    __u32 gone;                /* a VM to and from which all rules go at once; 0: none */
    __u32 flows, rules, conns; /* out: removed */
    __u32 of;                  /* the table that the keys are of, HS_SWEEP_* */
    __u32 keys;                /* so many */
};

#endif
