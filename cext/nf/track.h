// SPDX-License-Identifier: Apache-2.0
/* The connections a network function remembers: a table of fixed size that forgets what is idle.
 *
 * Sets of HS_TRACK_WAYS entries, chosen by a hash with a secret seed, so that nobody outside can
 * aim at one set. A new connection takes a free or expired entry of its set. If there is none,
 * somebody else's gives way (hs_track_room), and else the table is full for it, and the caller says
 * what that means. Memory is touched as it fills.
 *
 * Whoever begins a connection, its source, is known by the address, and the table counts how many
 * connections each has: one that floods pays with its own. Addresses share HS_TRACK_SOURCES counts
 * by a hash with the same seed.
 *
 * The table lies in a memfd that the daemon keeps, so that a function that was killed goes on with
 * its connections when it is started again. Nobody but the functions of this one VM writes it, one
 * after the other; one that was killed in the middle of an entry leaves it with a state that is not
 * HS_FREE only if all else is written, and whoever opens the table checks what it builds on.
 *
 * How long a connection may be silent, by protocol and state (RFC 5382, 4787, 5508):
 *
 *     state    from                   by
 *     NEW      -, CLOSING             first packet; a TCP SYN on a connection that was closing
 *     OPEN     NEW                    a packet the other way
 *     CLOSING  NEW, OPEN              TCP FIN or RST. What still comes is part of it, and does not
 *                                     open it again: only a SYN begins another one
 */
#ifndef HS_NF_TRACK_H
#define HS_NF_TRACK_H
#include "nf/packet.h"

#define HS_SECONDS UINT64_C(1000000000)
#define HS_IDLE_TCP_OPEN (7440 * HS_SECONDS)
#define HS_IDLE_TCP (240 * HS_SECONDS) /* half open, or closing */
#define HS_IDLE_SYN (5 * HS_SECONDS)   /* half open, if another wants its place */
#define HS_IDLE_UDP (120 * HS_SECONDS)
#define HS_IDLE_ICMP (60 * HS_SECONDS)
#define HS_IDLE_OTHER (600 * HS_SECONDS)

enum { HS_TRACK_WAYS = 8 };
enum { HS_TRACK_SOURCES = 4096 }; /* a power of two */
enum { HS_TRACK_CROWD = 64 };     /* a source has many if it has this part of the table */
enum { HS_TRACK_FEW = 8 };        /* connections of a source that are not held against it */
enum { HS_TRACK_TURNED = 1, HS_TRACK_SYN = 2 }; /* it went against the key; it was a TCP SYN */
enum hs_track_state { HS_FREE = 0, HS_NEW, HS_OPEN, HS_CLOSING };

struct hs_tracked {
    uint64_t key[5]; /* a struct hs_tuple */
    uint64_t last;   /* ns */
    uint8_t state;   /* enum hs_track_state */
    uint8_t turned;  /* HS_TRACK_*: of the packet that it was begun by */
    uint8_t mac[6];  /* the translator's: who began it ... */
    uint32_t port;   /* ... and the port it has outside */
};

#define HS_TRACK_MAGIC 0x6b725468u /* "hTrk" */

struct hs_track_kept {
    uint32_t magic, entries; /* magic is written last */
    uint64_t seed;
    uint8_t pad[48];
    struct hs_tracked entry[];
};
_Static_assert(sizeof(struct hs_tracked) == 64, "layout is kept");
_Static_assert(sizeof(struct hs_track_kept) == 64, "layout is kept");

struct hs_track {
    struct hs_track_kept *kept;
    struct hs_tracked *entry; /* in it */
    uint32_t entries;         /* a power of two */
    uint64_t seed;
    uint32_t *of_source; /* entries that are not free; HS_TRACK_SOURCES of them */
};

/* Room for at least `entries`, in `fd`: an empty memfd, or one that such a table was kept in; it
 * stays the caller's. fd < 0: in memory that nobody keeps. 0, or a negative errno; -EPROTO: it is
 * another table. */
int hs_track_open(struct hs_track *t, uint32_t entries, int fd);
/* Twice is harmless. */
void hs_track_close(struct hs_track *t);

/* The living connection of a tuple; NULL: none. */
struct hs_tracked *hs_track_find(struct hs_track *t, const struct hs_tuple *key, uint64_t now);

/* Which count is that of an address, 16 bytes. */
uint32_t hs_track_source(const struct hs_track *t, const uint8_t address[16]);

/* Where a tuple may be remembered: its own entry; one that is free; or one that still holds a
 * connection (state not HS_FREE), which hs_track_set lets go of. That connection
 *     is over,
 *     or is of a source that has more than an HS_TRACK_CROWD-th of the table, and more than twice
 *     as many as who wants the place, and HS_TRACK_FEW: one without an answer before one with it,
 *     or is the TCP connection of the set that has waited longest for an answer, longer than
 *     HS_IDLE_SYN, unless who wants the place has more than twice as many as its source.
 * turned: HS_TRACK_TURNED, or 0: the key is against the first packet's way. NULL: full. */
struct hs_tracked *hs_track_room(struct hs_track *t, const struct hs_tuple *key, uint8_t turned,
                                 uint64_t now);
/* Make an entry the tuple's, in state NEW. turned: HS_TRACK_*. */
void hs_track_set(struct hs_track *t, struct hs_tracked *e, const struct hs_tuple *key,
                  uint8_t turned, uint64_t now);
/* Let go of what an entry holds. Twice is harmless. */
void hs_track_free(struct hs_track *t, struct hs_tracked *e);

/* A packet of the connection. reply: against its first packet's way. */
void hs_track_touch(struct hs_tracked *e, int reply, uint8_t tcp_flags, uint64_t now);

/* Whether it has been silent for too long. */
int hs_track_over(const struct hs_tracked *e, uint64_t now);

#endif
