// SPDX-License-Identifier: Apache-2.0
/* Takes input devices out of the hands of every process of a cgroup (EVIOCREVOKE, linux/input.h;
 * pidfd_getfd(2); cgroup.freeze, Documentation/admin-guide/cgroup-v2.rst). Revoke is final for an
 * open file: every later call on it says ENODEV, in every process that shares it. */
#ifndef HS_REVOKE_H
#define HS_REVOKE_H
#include "input/clients.h"
#include "input/hold.h"
#include "input/keeper.h"

#include <stdbool.h>
#include <stdint.h>

struct hs_revoke_count {
    uint32_t processes; /* looked at, over all passes */
    uint32_t revoked;   /* open files that lost their device now */
    uint32_t killed;    /* processes that held, or may have held, one where it was out of reach */
    uint32_t hidden;    /* descriptors in flight in sockets that could not be looked into; again in
                           each pass */
    uint32_t passes;    /* over the processes */
    uint32_t restless;  /* 1: the loser's processes did not come to rest in time */
    uint32_t clean;     /* 1: nobody has a device any more; 0: they were still found at the end */
    uint32_t late;      /* 1: the loser's processes, or the passes, took longer than they may */
};
_Static_assert(sizeof(struct hs_revoke_count) == 32, "struct hs_revoke_count");

#define HS_READERS 64 /* open files that are looked after, or put aside */

/* Open files of devices, each by a descriptor of ours; more than there is room for are left out. */
struct hs_files {
    uint32_t n;
    uint32_t idle; /* behind the n: they have read it */
    int32_t fd[HS_READERS];
    uint32_t device[HS_READERS]; /* which one of the list */
    int32_t place[HS_READERS];   /* up to where it is to be read; negative: all */
};
_Static_assert(sizeof(struct hs_files) == 8 + 12 * HS_READERS, "struct hs_files");

/* Where readers in a cgroup were found the last time: by the number `fd` in a process, of which
 * `pidfd` is ours. All 0 at first; hs_places_forget ends it. */
struct hs_places {
    uint32_t n;
    int32_t pidfd[HS_READERS], fd[HS_READERS];
};
_Static_assert(sizeof(struct hs_places) == 4 + 8 * HS_READERS, "struct hs_places");

void hs_places_forget(struct hs_places *places);

/* An open file of each device, of this process, and another one of it or -1. */
struct hs_ours {
    int32_t fd, also;
};
_Static_assert(sizeof(struct hs_ours) == 8, "struct hs_ours");

/* Note which open files of the devices there are in processes of the cgroup (a v2 directory) and
 * below it; none if it is frozen, for nobody reads there. Those at `places` come first, which are
 * of this cgroup; if the kernel knows of no others, nobody is looked through. Returns 0 or a
 * negative errno; what was noted is to be forgotten in any case. */
int hs_readers_find(struct hs_keeper *keeper, struct hs_files *readers, struct hs_places *places,
                    const char *cgroup, const struct hs_clients *clients,
                    const struct hs_ours *ours, const uint64_t *devices, uint32_t n);
/* What is to be read is what is there now; hs_readers_find does this too. */
void hs_readers_mark(struct hs_files *readers, const struct hs_clients *clients);
/* Put those behind that have read what came before hs_readers_mark, or that have nothing to read,
 * or no device any more; how many are left. */
uint32_t hs_readers_left(struct hs_files *readers, const struct hs_clients *clients);
void hs_readers_forget(struct hs_files *readers, struct hs_keeper *keeper);

/* Revoke the noted open files, which are forgotten then, and ask the kernel whether anybody else
 * has one of the devices open: if the loser is at rest, that answers what hs_revoke has to look
 * through all processes for. hold, still_ms, devices, unread: as there; ours: for each device.
 * Returns whether nobody has; if not, or if the kernel does not tell, hs_revoke is to follow. */
bool hs_revoke_noted(struct hs_keeper *keeper, const struct hs_hold *hold, struct hs_files *noted,
                     const struct hs_clients *clients, const struct hs_ours *ours,
                     const uint64_t *devices, uint32_t n, uint32_t still_ms, uint64_t *unread);

/* Revoke every open file of the devices that a process in the cgroup `all`, or below it, has.
 * hold: a cgroup below `all`, that of the OS that loses the devices. It is waited for, `still_ms`
 * at the most; at rest, none of its processes has an open under way. devices: makedev(3) numbers.
 * The caller has seen to it that no new open can succeed.
 *
 * One pass does if the loser is at rest and nobody else had a device. Else it is repeated until
 * it finds none, at most `passes` times.
 *
 * Descriptors that wait in a UNIX socket's queue are found too (MSG_PEEK on a copy of the socket).
 * A process is killed if the kernel offers no way to what may be a device's open file: a thread
 * of it has a descriptor table of its own that holds a device, or a socket with descriptors in its
 * queue; a socket of it holds descriptors that cannot be looked at (of a connection that is not
 * accepted, behind many messages, deep in sockets within sockets) or more than are looked at for
 * one process; its descriptors cannot be had, for a reason that is not its or their end.
 * budget_ms: of our own time (input/spent.h), for the loser's processes over all passes,
 * for those of each other cgroup directly below `all` in each, and for all passes but the first. A
 * cgroup of others that takes longer is killed; if the loser does, or the passes, it is late, and
 * not clean.
 * unread: for each device, grows by the events that waited in open files of the loser's and went
 * with them; not known if it was restless, or shared a device's open file with somebody else.
 * keeper: has the revoked files for a while.
 * Sets *count. Returns 0 or a negative errno. Not for two threads at once. */
int hs_revoke(struct hs_keeper *keeper, const struct hs_hold *hold, const char *all,
              const uint64_t *devices, uint32_t n, uint32_t still_ms, uint32_t budget_ms,
              uint32_t passes, struct hs_revoke_count *count, uint64_t *unread);

#endif
