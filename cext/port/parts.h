// SPDX-License-Identifier: Apache-2.0
/* What the parts of the port do for each other; for nobody else. A part calls only parts to its
 * left:
 *
 *     wake.c < frames.c < recv.c < send.c, wait.c < loop.c        frames.c < life.c
 */
#ifndef HS_PORT_PARTS_H
#define HS_PORT_PARTS_H
#include "port/port.h"

/* wake.c: whom to wake. */

/* Wake a neighbour, if it sleeps and has what it waits for; now, or when hs_port_ring is called. */
void hs_port_wake(struct hs_port *p, struct hs_neighbour *n, enum hs_wake what);

/* Give way to whoever wants the core; now: ns. */
void hs_port_yield(struct hs_port *p, uint64_t now);

/* frames.c: whose frame is it, and the way home. */

/* The port is done with a frame: it is free, or goes back to the neighbour it came from. */
void hs_port_let_go(struct hs_port *p, uint64_t addr);

/* Frames of neighbours go home, and no others are asked for. */
void hs_port_send_home(struct hs_port *p);

/* Shared mode: take back what neighbours have let go of, and give back what is theirs; to be called
 * when frames run low or nothing else is to do. */
void hs_port_reclaim(struct hs_port *p);

/* Close the channels and bells of a neighbour. Its frames are free, what it refused stays counted.
 */
void hs_port_part(struct hs_port *p, struct hs_neighbour *n);

/* Part with the dead of whom nothing is left: no packet to take, and no frame to give back. */
void hs_port_bury(struct hs_port *p);

/* recv.c: the way in. */

/* The tally's entry for a flow; the caller's cache of it must be set anew: an entry that was made
 * in another's place is nobody's any more. */
struct hs_tally_entry *hs_port_entry(struct hs_port *p, const struct hs_tuple *tuple, uint32_t peer,
                                     uint64_t now);

#endif
