// SPDX-License-Identifier: Apache-2.0
/* A sweep of the tables of flows, connections and datagrams, in short turns.
 *
 * On a kernel that is not fully preemptible, a processor that runs a BPF program runs nothing else.
 * A program that walked the tables would keep it for 100 ms: longer than a flip may take. So keys
 * are read a page at a time, and the program `sweep` looks at those of one page. Between two turns,
 * whoever has waited for the processor gets it.
 *
 * The thread has the priority of any program meanwhile, and its own again afterwards. What threads
 * of one priority have of a processor is shared among them (sched(7), "The autogroup feature"): a
 * sweep that had the loop's would leave it no more than any program has. */
#ifndef HS_SWEEP_H
#define HS_SWEEP_H
#include "switch/layout.h"

/* What a sweep needs, by descriptor: the program `sweep`, its page of keys, and the tables in the
 * order of HS_SWEEP_*. */
struct hs_swept_fds {
    int program, swept;
    int tables[3];
};

/* Sweep all that there is; work->flows, rules and conns are what was removed. First flows, since
 * these tell how lately a connection was seen. One at a time. Returns 0, or -errno: then not all
 * was swept. */
int hs_sweep_all(const struct hs_swept_fds *fds, struct hs_sweep *work);

#endif
