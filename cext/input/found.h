// SPDX-License-Identifier: Apache-2.0
/* What a revoke does to each descriptor that its walk finds (input/revoke.h), and to those that
 * wait in the queue of a UNIX socket (unix(7), SCM_RIGHTS). A walk has a job, which says what is
 * looked for, and how far; it is the walk's, and used by one thread. */
#ifndef HS_FOUND_H
#define HS_FOUND_H
#include "input/revoke.h"
#include "input/spent.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define HS_OVERRUN 16 /* cgroups that are remembered because they were killed */
#define HS_DYING 64   /* processes that are remembered because they were killed */

enum hs_revoke_mode {
    HS_NOTE_READERS,   /* put aside who has a device open; revoke nothing, pass sockets over */
    HS_REVOKE,         /* revoke each file where it is found */
    HS_REVOKE_AT_REST, /* the loser is at rest: put its files aside, revoke them after the pass */
};

/* A walk over processes. */
struct hs_revoke_job {
    enum hs_revoke_mode mode;
    const uint64_t *devices;
    uint32_t n;
    struct hs_keeper *keeper;
    struct hs_revoke_count *count;
    const char *all;          /* the name of the cgroup that is walked */
    struct stat loser;        /* its directory */
    bool at_home;             /* the pass is in the loser's cgroup */
    uint32_t abroad;          /* found anywhere else by this pass */
    uint32_t looks;           /* left for this process */
    struct hs_spent spent;    /* on the walk: our own time, without the machine's pauses */
    int64_t budget;           /* for each cgroup below the one that is walked; ns of that time */
    int64_t home_left;        /* of it for the loser's, over all passes */
    int64_t until;            /* of that time: the end of this cgroup's part */
    int64_t last;             /* the end of all passes but the first */
    bool late;                /* one of these ends has come: nothing more is looked at */
    bool late_at_home;        /* in the loser's cgroup */
    uint32_t dying;           /* processes that were killed, and take their time to end */
    int pid[HS_DYING];        /* their numbers, which are nobody else's until they have ended */
    int pidfd[HS_DYING];      /* by which that is known; ours to close */
    uint32_t overrun;         /* how many took longer, and were killed */
    ino_t killed[HS_OVERRUN]; /* they: their processes run no instruction any more */
    struct hs_files *aside;   /* but for HS_REVOKE */
    struct hs_places *places; /* of what is put aside; or NULL */
};

/* A step of the walk ends: what the walk has cost until now. */
int64_t hs_found_spent(struct hs_revoke_job *job);
/* The same; whether that is more than it may, now or before. */
bool hs_found_late(struct hs_revoke_job *job);
/* Which of the job's devices it is; job->n: none. */
uint32_t hs_found_device(const struct hs_revoke_job *job, const struct stat *st);
/* Put a reader of a device aside. Not if it reads nothing: it is revoked, its device is unplugged,
 * or it was opened as a path; nor one that is there already; nor if there is no room. Whether the
 * descriptor is `readers`' now. */
bool hs_found_reader(struct hs_files *readers, int fd, uint32_t device);
/* Revoke a device's open file. Whether the descriptor is the keeper's now. */
bool hs_found_revoke(struct hs_revoke_job *job, int fd);
/* Deal with a descriptor of ours, which ends here: a copy of one that a process has, or has in
 * flight. A device is revoked or put aside, as the job's mode says; into a socket's queue it looks,
 * without taking anything out of it. depth: 0 for a descriptor in a table, one more for each queue
 * on the way to it. What cannot be looked at is counted as hidden. */
void hs_found(struct hs_revoke_job *job, int fd, int depth);
/* How many descriptors wait in a socket, as its /proc entry says (scm_fds). table: the /proc
 * directory of the descriptors that `fd` is one of. */
unsigned hs_found_waiting(const char *table, int fd);

#endif
