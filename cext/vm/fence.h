// SPDX-License-Identifier: Apache-2.0
/* The fence of a VM: a user namespace, and the network and IPC namespaces that it owns
 * (user_namespaces(7)).
 *
 * A capability that a VM's process holds counts for what its own user namespace owns. Without one,
 * CAP_NET_ADMIN in a VM is CAP_NET_ADMIN over every network namespace of the machine that has a
 * name there: the switch's by the number of a link's other end (IFLA_TARGET_NETNSID), the machine's
 * by a socket that was handed in (SIOCGSKNS).
 *
 * The ids inside are the ids outside, one to one, so that files keep their owners; or, for a VM
 * with a root of its own, HS_FENCE_IDS from `base` on, which nobody else has: its user 0 is nobody
 * outside, and what the kernel counts for each user (inotify(7), keys) is counted for `base`. What
 * reaches a VM's mounts and processes is not owned by the fence: process 1 mounts what the VM sees
 * before it enters, and nobody behind the fence can mount, unmount or make a device node. */
#ifndef HS_FENCE_H
#define HS_FENCE_H
#include <stdint.h>

/* The namespaces of a fence that nobody has entered yet; the caller owns the descriptors. */
struct hs_fence {
    int user_fd;
    int net_fd;
    int ipc_fd;
};

#define HS_FENCE_IDS 65536

/* Make a fence. base: the first id outside, 0 for the same ids. With a base, in a thread that ends
 * afterwards: its user ids are changed. Returns 0 or a negative errno: ENOSPC beyond
 * user.max_user_namespaces, EPERM if the machine forbids user namespaces. */
int hs_fence_make(struct hs_fence *fence, uint32_t base);

/* Close the descriptors. Namespaces that were entered live as long as their processes. */
void hs_fence_close(struct hs_fence *fence);

#endif
