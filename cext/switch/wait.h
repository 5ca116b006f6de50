// SPDX-License-Identifier: Apache-2.0
/* Fragments that come before their first one, and whose ports a match has to know: each waits a
 * moment for it, and then comes in by its port again.
 *
 *   classify      puts a head (struct hs_line_head) before the frame, and sends it to HS_WAIT_TAP
 *   the line      one of its own (switch/line.h), which sends it out of HS_WAIT_TAP when it is due
 *   come_again    at the exit there: into the port that its mark names
 *
 * A fragment waits HS_WAIT_TRIES times at most. A VM or endpoint has HS_WAIT_EACH of them begin to
 * wait in a turn, and about twice as many wait at a time; of more, it alone loses. */
#ifndef HS_WAIT_H
#define HS_WAIT_H

#include "switch/impair.h"
#include "switch/layout.h"

enum { HS_WAIT_TAP = HS_LINE_TAP + 1 };
enum {
    HS_WAIT_TRIES = 5,
    HS_WAIT_EACH = 128,
    HS_WAIT_TURN = 26, /* a turn has 2^26 ns: 67 ms */
};
#define HS_WAIT_NS 20000000 /* of each try: 20 ms */

/* A try's number and a port's, in the upper half of a head's `port`, and in the lower half of the
 * mark HS_LINE_MARKED that comes of it. */
enum { HS_WAIT_TRY = 12 };
_Static_assert(HS_VM_MAX < 1 << HS_WAIT_TRY, "both have room");
_Static_assert(HS_WAIT_TRIES < 1 << (16 - HS_WAIT_TRY), "both have room");

/* Whether a frame has such a mark: it has waited. */
HS_INLINE int hs_is_marked(__u32 mark) {
    return (mark & 0xffff0000u) == HS_LINE_MARKED;
}

#endif
