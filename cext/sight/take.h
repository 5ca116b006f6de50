// SPDX-License-Identifier: Apache-2.0
/* Takes what a capture's BPF programs saw out of their buffers, into one piece of memory.
 *
 * What finds no room there stays in its buffer for the next time, which begins with that buffer: no
 * CPU's packets wait for ever behind another one's. One thread. Records stand behind one another:
 * uint32_t size, then struct hs_sight and the bytes of the frame, padded to 4. */
#ifndef HS_TAKE_H
#define HS_TAKE_H

#include "flow/tuple.h"
#include "sight/tap.h"

#include <stddef.h>
#include <stdint.h>

enum { HS_TAKE_WAKES = 8 }; /* whoever waits is woken when so much of a buffer, 1/8, is full */

struct hs_taker;

/* map_fd: `sights`. pages: of each CPU's buffer, a power of two. NULL and errno. */
struct hs_taker *hs_taker_open(int map_fd, size_t pages, size_t room);
/* Map a tap (sight/tap.h) to read it: its pages are made, so that they count for the caller.
 * Returns 0 or a negative errno; the descriptor stays the caller's. */
int hs_tap_open(int fd, struct hs_tap **tap);
void hs_tap_close(struct hs_tap *tap);
/* Nobody looks any more: the port is told, and the pages are freed. */
void hs_tap_empty(struct hs_tap *tap);
/* Bytes of the region of one. */
size_t hs_tap_size(void);

/* Wait so many ms for a part of a buffer to be full, and take what there is. Returns how many bytes
 * are in `hs_taker_bytes`, which the next call overwrites; or a negative errno. */
int64_t hs_taker_take(struct hs_taker *taker, int ms);
/* Add what a port has written since: what is of VM `vm`, whatever it says; `snap` bytes of a frame
 * at most, and as many packets as there is room for. Returns as hs_taker_take does. */
int64_t hs_taker_tap(struct hs_taker *taker, const struct hs_tap *tap, struct hs_tap_reader *reader,
                     uint32_t vm, uint32_t snap);
const uint8_t *hs_taker_bytes(const struct hs_taker *taker);
/* Of an ICMP error: the flow that it is about, turned round, as the classifier counts it if it
 * knows that flow. Returns whether there is one. */
int hs_sight_about(const uint8_t *frame, uint32_t len, struct hs_tuple *about);
/* Records that were lost since the start: no room in the kernel's buffer. */
uint64_t hs_taker_lost(const struct hs_taker *taker);
void hs_taker_close(struct hs_taker *taker);

#endif
