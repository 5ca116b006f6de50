/* Takes input devices out of the hands of every process of a cgroup (EVIOCREVOKE, linux/input.h;
 * pidfd_getfd(2)). Revoke is final for an open file: every later call on it says ENODEV, in every
 * process that shares it. */
#ifndef HS_REVOKE_H
#define HS_REVOKE_H
#include <stdint.h>

struct hs_revoke_count {
    uint32_t processes; /* looked at */
    uint32_t revoked;   /* open files that lost their device now */
    uint32_t killed;    /* processes that held one where it could not be reached */
    uint32_t hidden;    /* descriptors in flight in sockets that could not be looked into */
};
_Static_assert(sizeof(struct hs_revoke_count) == 16, "struct hs_revoke_count");

/* One pass over the processes of the cgroup (a v2 directory) and of those below it.
 * devices: makedev(3) numbers. The caller has seen to it that no new open can succeed, and, to be
 * sure of the pass, has frozen the cgroup; it repeats the pass until it revokes and kills none.
 * Descriptors that wait in a UNIX socket's queue are found too (MSG_PEEK on a copy of the socket).
 * A process is killed where one of its threads has a descriptor table of its own that holds a
 * device: the kernel offers no way to that open file.
 * Adds to *count. Returns 0 or a negative errno. Not for two threads at once. */
int hs_revoke(const char *cgroup, const uint64_t *devices, uint32_t n,
              struct hs_revoke_count *count);

#endif
