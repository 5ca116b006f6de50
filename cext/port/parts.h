/* What the parts of the port (port/port.c, port/send.c, port/wait.c) do for each other; for nobody
 * else.
 */
#ifndef HS_PORT_PARTS_H
#define HS_PORT_PARTS_H
#include "port/port.h"

/* The port is done with a frame: it is free, or goes back to the neighbour it came from. */
void hs_port_let_go(struct hs_port *p, uint64_t addr);

/* Wake a neighbour, if it sleeps and has what it waits for; now, or when hs_port_ring is called. */
void hs_port_wake(struct hs_port *p, struct hs_neighbour *n, enum hs_wake what);

/* Give way to whoever wants the core; now: ns. */
void hs_port_yield(struct hs_port *p, uint64_t now);

/* Shared mode: take back what neighbours have let go of, and give back what is theirs. */
void hs_port_reclaim(struct hs_port *p);

/* Let go of the dead of whom nothing is left: no packet to take, and no frame to give back. */
void hs_port_bury(struct hs_port *p);

/* The tally's entry for a flow; the caller's cache of it must be set anew: one that was made in
 * another's place is nobody's any more. */
struct hs_tally_entry *hs_port_entry(struct hs_port *p, const struct hs_tuple *tuple, uint32_t peer,
                                     uint64_t now);

#endif
