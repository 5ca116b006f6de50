// SPDX-License-Identifier: Apache-2.0
/* The measured loops of `hostsim bench ring`: one end each, run by two processes on two cores until
 * the parent says stop. They are here because they must not wait for an interpreter; everything
 * else about the bench is hostsim/bench/ring.py. */
#ifndef HS_RING_BENCH_H
#define HS_RING_BENCH_H
#include "ring/channel.h"

#define HS_BENCH_BURST 64

/* A page shared by the parent and both ends. */
struct hs_bench {
    _Alignas(HS_APART) _Atomic uint32_t stop;
    _Alignas(HS_APART) _Atomic uint64_t count; /* packets received */
    _Alignas(HS_APART) _Atomic uint64_t wrong; /* of those looked at: not the one that was due */
};

/* Isolated: each byte is copied in from the umem; one packet of a burst carries its number.
 * Shared: each packet's first HS_BENCH_HEADER bytes are written: its number, and a pattern that
 * follows from the packet's length, which is the longest that the channel takes. */
#define HS_BENCH_HEADER 48
void hs_bench_source(struct hs_channel *c, struct hs_bench *b, uint32_t len);

/* Isolated: each byte is copied out. Shared: each header is read, whole. What is read is checked.
 */
void hs_bench_sink(struct hs_channel *c, struct hs_bench *b);

/* The bare limit: the same copies through the same kind of memory, with indices and nothing else:
 * no descriptors, no checks, no bookkeeping of frames; every packet has the same length. `slots` of
 * len bytes rounded up to cache lines; `data` is a region, `ring` one of no slots. */
void hs_bench_limit_source(struct hs_ring_shared *ring, uint8_t *data, uint32_t slots, uint32_t len,
                           struct hs_bench *b);
void hs_bench_limit_sink(struct hs_ring_shared *ring, uint8_t *data, uint32_t slots, uint32_t len,
                         struct hs_bench *b);

/* Round trips of one packet of `len` bytes, `n` of them. The one that begins writes each duration
 * into `ns`; the other has ns == NULL. `spin_ns`: how long to poll before sleeping; UINT64_MAX:
 * never sleep. Bells are pipes: the end to read, and the peer's to write. Returns 0 or a negative
 * errno (-ETIMEDOUT if a packet took more than a second). */
int hs_bench_rtt(struct hs_channel *out, struct hs_channel *in, int bell_in, int bell_out,
                 uint32_t len, uint32_t n, uint64_t spin_ns, uint64_t *ns);

/* Wait for a packet that does not come, for `ns`. Returns -ETIMEDOUT, or 0 if one came. */
int hs_bench_idle(struct hs_channel *in, int bell, uint64_t spin_ns, uint64_t ns);

/* The peer of the sleeping round trip: two eventfds, blocking reads and writes, nothing else. */
int hs_bench_eventfd(int fd_in, int fd_out, uint32_t n, uint64_t *ns);

#endif
