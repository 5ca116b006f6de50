// SPDX-License-Identifier: Apache-2.0
/* Holds the processes of a cgroup still (cgroup.freeze, Documentation/admin-guide/cgroup-v2.rst).
 */
#ifndef HS_HOLD_H
#define HS_HOLD_H
#include <stdbool.h>
#include <stdint.h>

/* A cgroup that is held still: frozen, and afterwards as it was before. */
struct hs_hold {
    int32_t group;   /* its directory; -1: it is gone, and nobody is there to hold */
    int32_t control; /* its cgroup.freeze, to let go by; -1: somebody else has frozen it */
};
_Static_assert(sizeof(struct hs_hold) == 8, "struct hs_hold");

/* Ask a cgroup (a v2 directory) to come to rest; does not wait for it. Whatever comes of it,
 * hs_hold_end follows. One that does not exist is no error. Returns 0 or a negative errno. */
int hs_hold_begin(struct hs_hold *hold, const char *cgroup);
/* Let it run again. Twice is harmless. Returns 0 or a negative errno. */
int hs_hold_end(struct hs_hold *hold);

/* Whether it has come to rest, within `ms`. */
bool hs_hold_rests(const struct hs_hold *hold, unsigned ms);

/* Whether somebody has asked for a cgroup (a v2 directory) to be frozen. */
bool hs_frozen(const char *cgroup);

#endif
