// SPDX-License-Identifier: Apache-2.0
/* The port: what a network function holds. Behind it the VM's eth0 (an AF_XDP socket) and a channel
 * each way for each neighbour; in it the transfer component, which for each packet that is sent
 * looks for a routing rule: a current one sends it into the neighbour's channel, past the switch;
 * none, or a stale one, out of eth0 to the switch.
 *
 * Order. A flow that goes from switch to channel: `recv` looks at the channels first and then takes
 * everything from eth0 before what it saw in the channels, and the sender's last packet by eth0 was
 * in the receiver's socket when its send returned (the kernel delivers a veth's packet in the
 * sender's own system call, unless softirqs are so loaded that they are put off). From channel to
 * switch: after a rule has been withdrawn, the sender lets its channels run empty once before it
 * sends anything by eth0 (HS_DRAIN at most).
 *
 * A full channel: the packet is dropped and counted, or, if its rule says so, the sender gives
 * the receiver up to HS_WAIT to make room, asleep after a while. A receiver that let that time pass
 * is stuck: nobody waits for it again until it has taken half of a ring.
 *
 * Cores that others want. Where there are fewer cores than ports that have something to do, polling
 * takes from the one that is waited for. A port that gives way (sched_yield(2)) and is away for
 * longer than a system call takes it for a sign of that. For HS_CROWDED it sleeps then instead of
 * polling, until half of a ring is free or full, or its neighbour has nothing more to do.
 *
 * How a side waits for a ring (sleeps[] in ring/ring.h):
 *
 *                HS_SPIN is over                  the other side did anything
 *     polling ---------------------> asleep ----------------------------------------> rung
 *      ^   |                                                                          ^  |
 *      |   |  crowded, or for half                half of the ring is full or free,   |  |
 *      |   +-----------------------> half ------- or the other side has nothing ------+  |
 *      |                                          more to do                             |
 *      +------------ it has heard the bell, or its time is up ---------------------------+
 *
 * Who waits for packets is `asleep`, and `half` while it is crowded. Who waits for room is `half`
 * for HS_PATIENCE, then `asleep`. Who waits for frames of its own is `half`.
 *
 * Who is woken, and when. A change of processes costs some microseconds, and waking one on another
 * core more, so both are to serve for many packets. The loops below do not look after each burst
 * whether a neighbour sleeps, but after HS_ROUNDS_PUT_OFF bursts. They wake then only a neighbour
 * that they would lose packets to. A port that has nothing more to do, or no room, wakes the
 * others: they can have its core. After HS_ROUNDS_LATE such looks they are woken anyway.
 *
 * Tuning: what more of each constant buys and what it costs, and the case of `hostsim bench chain`,
 * or the test, that shows it.
 *
 *     constant             unit     more of it buys; and costs                  watch
 *     HS_BURST             packets  fewer calls; a packet waits longer          N/ring
 *     HS_ROUNDS_PUT_OFF    bursts   fewer barriers; a sleeper is seen later     N/ring
 *     HS_ROUNDS_LATE       looks    more packets for a wake; they wait longer   N/ring
 *     HS_ROUNDS_ASK        bursts   fewer system calls; the end is heard later  N/ring
 *     HS_SPIN              ns       no wake after a short gap; takes a core     rtt/N/ring
 *     HS_CROWDED           ns       fewer changes of processes; no polling      N/ring
 *     HS_AWAY              ns       no false crowds; short ones are missed      N/ring
 *     HS_PACKETS_PART      1/ring   sooner woken; for fewer packets             N/ring
 *     HS_FRAMES_PART       1/ring   sooner woken; for fewer frames              N/ring
 *     HS_FRAMES_PART_IDLE  1/ring   the same, by a port about to sleep          N/ring
 *     HS_LATE              ns       fewer timers; what rings no bell waits      N/ring
 *     HS_PATIENCE          ns       halves of rings; a slow receiver holds us   N/ring
 *     HS_WAIT              ns       less is lost; a stuck receiver holds us     test_port.py
 *     HS_DRAIN             ns       less out of order; a stuck one holds eth0   test_switchover.py
 *     HS_MOURNING          ns       safer; frames are missing for longer        test_port_shared.py
 *
 * HS_LATE is that long because a sleep that sets the timer which is the next to run out costs as
 * much as a wake.
 *
 * What becomes of each packet is counted by flow in the tally (port/tally.h): what the function
 * gave to be sent, by which way it went, or why it was lost.
 *
 * Whoever captures sees each packet that went into a ring, and each that was lost (sight/tap.h).
 * While nobody does, that is one look at a word for each call of hs_port_send.
 *
 * A neighbour that dies is forgotten: what it had sent is still received, then its channels go. In
 * shared mode, frames that were lent to it may have been handed on by it to others who still use
 * them; so they come back only HS_MOURNING after its end, which is longer than a packet stays in a
 * port that runs, and its number is used again only when no frame is left that it would name.
 */
#ifndef HS_PORT_H
#define HS_PORT_H
#include "flow/parse.h"
#include "include/hostsim/nf.h"
#include "port/rules.h"
#include "port/tally.h"
#include "port/xsk.h"
#include "ring/bell.h"
#include "ring/channel.h"
#include "sight/tap.h"

#define HS_NEIGHBOURS_MAX 16

/* Tuning: see the table above. */
/* HS_BURST: hostsim/nf.h */
#define HS_ROUNDS_PUT_OFF 4
#define HS_ROUNDS_LATE 16 /* calls of hs_port_ring */
#define HS_ROUNDS_ASK 1024
#define HS_SPIN UINT64_C(20000)
#define HS_CROWDED UINT64_C(5000000)
#define HS_AWAY UINT64_C(3000)
#define HS_PACKETS_PART 2
#define HS_FRAMES_PART 2
#define HS_FRAMES_PART_IDLE 8
#define HS_LATE 20000000
#define HS_PATIENCE 20000000
#define HS_WAIT UINT64_C(50000000)
#define HS_DRAIN UINT64_C(1000000)
#define HS_MOURNING UINT64_C(200000000)

/* struct hs_packet, a packet in the function's hands, is hostsim/nf.h's. */
_Static_assert(sizeof(struct hs_packet) == sizeof(struct xdp_desc) &&
                   offsetof(struct hs_packet, addr) == offsetof(struct xdp_desc, addr) &&
                   offsetof(struct hs_packet, len) == offsetof(struct xdp_desc, len) &&
                   offsetof(struct hs_packet, from) == offsetof(struct xdp_desc, options),
               "one batch serves for both");

/* What a neighbour may sleep over: packets it has been sent, room in its ring, frames of its own.
 */
enum hs_wake { HS_WAKE_FOR_PACKETS = 1, HS_WAKE_FOR_ROOM = 2, HS_WAKE_FOR_FRAMES = 4 };

struct hs_neighbour {
    uint32_t vm; /* number; 0: none */
    struct hs_channel out, in;
    int bell_in, bell_out; /* owned */
    uint32_t seen;         /* packets `in` that recv has promised to take, ... */
    uint64_t after;        /* ... once so many have come by eth0: what waited there before them */
    uint32_t gone;         /* 1: dead; nothing is sent to it */
    uint32_t deaf;         /* 1: it has closed its end of bell_in */
    uint64_t until;        /* shared mode: when its frames may come back, CLOCK_MONOTONIC, ns */
    uint32_t stuck;        /* 1: it let HS_WAIT pass ... */
    uint32_t stuck_at;     /* ... when its index was this */
    uint32_t put_off;      /* enum hs_wake: it may sleep over what it has not been woken for */
    uint32_t rounds_put_off;
    uint32_t waits; /* 1: who sends to it waits for room, and loses nothing while it sleeps */
};

struct hs_port_counters {
    uint64_t eth0_in, eth0_out, ring_in, ring_out;
    uint64_t dropped;      /* by the function */
    uint64_t full_ring;    /* lost: the neighbour's channel was full */
    uint64_t full_eth0;    /* lost: the socket's ring was full */
    uint64_t too_long;     /* lost: longer than the neighbour's channel, or a frame, takes */
    uint64_t drained_late; /* a channel that did not run empty in time before a switch of paths */
    uint64_t sleeps;
};

/* How it waits and wakes. */
struct hs_port_pace {
    uint64_t spin_ns; /* polled for so long before it sleeps */
    uint32_t wait_on_full;
    uint32_t puts_off;      /* 1: in a loop that wakes neighbours by hs_port_ring */
    uint64_t crowded_until; /* CLOCK_MONOTONIC, ns */
};

/* Bursts are mostly of one flow: what is known of the last one sent, and the last received. */
struct hs_port_last {
    struct hs_tuple tuple;
    struct hs_flow_look look;
    uint32_t to, withdrawn;
    struct hs_tally_entry *sent;
    struct hs_flow_look in_look;
    uint32_t in_peer;
    struct hs_tally_entry *in;
};

struct hs_port {
    uint8_t *memory; /* umem.base; first, as hostsim/nf.h promises to plug-ins */
    struct hs_umem umem;
    struct hs_xsk eth0;
    int has_eth0;
    struct hs_neighbour neighbour[HS_NEIGHBOURS_MAX];
    uint32_t neighbours;
    uint32_t odd;                 /* of bursts that eth0 has to share: 1: the next is */
    uint32_t turn;                /* of the neighbour that is taken from first, in the next burst */
    const struct hs_rules *rules; /* NULL: everything goes to eth0 */
    uint32_t rule_entries;
    uint64_t rules_size;
    struct hs_port_pace pace;
    struct hs_port_counters counters;
    struct hs_tally *tally; /* NULL: nothing is counted by flow */
    uint32_t tally_entries;
    uint64_t tally_size;
    struct hs_tap *tap;            /* NULL: what is sent is not told to those who capture */
    uint32_t gone;                 /* neighbours that are dead, but not forgotten */
    uint64_t refused[HS_COUNTERS]; /* by neighbours that were, see enum hs_bad */
    struct hs_port_last last;
    uint32_t drained; /* hs_rules.withdrawn as of the last time the channels were let run empty */
};

_Static_assert(offsetof(struct hs_port, memory) == 0 &&
                   __builtin_types_compatible_p(__typeof__(((struct hs_port *)0)->memory),
                                                uint8_t *),
               "hs_packet_data takes a port for this member");

/* Open with a umem of `frames` (see hs_umem_open). */
int hs_port_open(struct hs_port *p, int umem_fd, uint32_t frames, uint32_t frame_size,
                 uint32_t first, uint32_t count);
/* By the AF_XDP socket `fd`, which becomes the port's; see hs_xsk_open. */
int hs_port_eth0(struct hs_port *p, int fd, const char *interface, uint32_t ring);
/* The bells become the port's when this succeeds; the channels' descriptors stay the caller's. */
int hs_port_neighbour(struct hs_port *p, uint32_t vm, const struct hs_channel_shape *shape,
                      int out_fd, int in_fd, int bell_in, int bell_out);
/* The table is mapped for reading; the descriptor stays the caller's. */
int hs_port_rules(struct hs_port *p, int fd, uint32_t entries);
/* The tally is mapped for writing; the descriptor stays the caller's. */
int hs_port_tally(struct hs_port *p, int fd, uint32_t entries);
/* The tap is mapped for writing, without its pages, which whoever captures makes; the descriptor
 * stays the caller's. */
int hs_port_tap(struct hs_port *p, int fd);
/* A neighbour is dead: nothing more is sent to it. Its channels go when what it sent has been
 * taken, and frames lent to it are free again (shared mode: a while later). */
void hs_port_forget(struct hs_port *p, uint32_t vm);
void hs_port_close(struct hs_port *p);

/* Up to `n` packets (at most HS_BURST), without waiting. */
uint32_t hs_port_recv(struct hs_port *p, struct hs_packet *batch, uint32_t n);
/* Send all: what cannot be sent is dropped and counted. The frames are no longer the caller's. */
void hs_port_send(struct hs_port *p, const struct hs_packet *batch, uint32_t n);
void hs_port_drop(struct hs_port *p, const struct hs_packet *batch, uint32_t n);
/* Send the batch, but drop those whose bit is set in `drop` (bit i: batch[i]); n <= HS_BURST. The
 * order stays; `batch` is used up. */
void hs_port_finish(struct hs_port *p, struct hs_packet *batch, uint32_t n, uint64_t drop);
/* A free frame to make a packet in. 0, or -ENOBUFS. */
int hs_port_new(struct hs_port *p, struct hs_packet *packet);

/* How many packets of a burst the socket has room for, if all of them go there: one who makes
 * packets waits for it where others drop. */
static inline uint32_t hs_port_room(const struct hs_port *p) {
    uint32_t room = p->has_eth0 ? p->eth0.tx.size - p->eth0.in_tx : HS_BURST;

    if (p->eth0.pieces)
        room /= p->umem.frame_size / HS_CHUNK;
    return room < HS_BURST ? room : HS_BURST;
}

/* Wait until something can be received, `also` (a descriptor, or -1) is readable, or `ns` have
 * passed; polls for spin_ns, then sleeps. Returns 1: packets; 2: also; 0: time; negative errno. */
int hs_port_wait(struct hs_port *p, int also, uint64_t ns);

/* Wait for frames to make packets in, and room in the socket, which come back without a packet.
 * Returns as hs_port_wait does; 0 means to try again. */
int hs_port_wait_for_frames(struct hs_port *p, int also);

/* Loops that never wait for long between two bursts may set puts_off: neighbours that sleep are
 * then woken by this call, which is due every HS_ROUNDS_PUT_OFF bursts, and with idle != 0 when
 * there is nothing more to send: then for any packets they have, else, if they said so, for half
 * a ring. hs_port_wait, hs_port_wait_for_frames and a sender that waits for room make the latter.
 */
void hs_port_ring(struct hs_port *p, int idle);

/* A C function's whole loop: recv, judge, send, until `also` is readable. judge: gets a batch, may
 * reorder and change it, and returns how many of it, from its start, go on; the rest is dropped. */
typedef uint32_t (*hs_judge)(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);
_Static_assert(__builtin_types_compatible_p(hs_judge, __typeof__(&hs_nf)), "a plug-in's is one");
int hs_port_loop(struct hs_port *p, hs_judge judge, void *state, int also);

#endif
