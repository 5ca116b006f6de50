// SPDX-License-Identifier: Apache-2.0
/* What a piece of work has cost, in time of the thread that does it (CLOCK_THREAD_CPUTIME_ID), so
 * that what others do meanwhile does not count. But that clock runs on while a hypervisor, the
 * firmware or an interrupt has the processor: on a busy machine a virtual one stands still for
 * tens of milliseconds, and the guest's kernel, where nobody tells it, takes them for its thread's.
 * So the work is done in steps, none of which is long, and a longer one counts as HS_STEP_NS: the
 * rest was a pause of the machine. What takes too long then has many steps, on every machine. Pure
 * but for hs_own_ns. */
#ifndef HS_SPENT_H
#define HS_SPENT_H
#include <stdint.h>
#include <time.h>

/* Ten times as long as any step that is counted here takes on a usual machine: some dozens of
 * system calls. */
#define HS_STEP_NS 1000000

struct hs_spent {
    int64_t at; /* the thread's time at the last look */
    int64_t ns; /* the sum of the steps until then */
};

static inline int64_t hs_own_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A step has ended at this time of the thread; the sum of all of them. */
static inline int64_t hs_spent_step(struct hs_spent *spent, int64_t own_ns) {
    int64_t step = own_ns - spent->at;

    spent->at = own_ns;
    spent->ns += step < HS_STEP_NS ? step : HS_STEP_NS;
    return spent->ns;
}

#endif
