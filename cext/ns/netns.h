// SPDX-License-Identifier: Apache-2.0
/* Steps into another network namespace and back (setns(2)). */
#ifndef HS_NETNS_H
#define HS_NETNS_H

/* The calling thread goes into the network namespace `netns_fd` refers to. Returns a descriptor of
 * its own one for hs_netns_leave, or a negative errno: then it is where it was. */
int hs_netns_enter(int netns_fd);

/* Back again; closes `home`. Aborts if the thread cannot return, for then nothing it does
 * afterwards is where the caller thinks. */
void hs_netns_leave(int home);

/* Make a network namespace that nothing runs in. Returns a descriptor of it, which the caller owns
 * and which keeps it alive, or a negative errno. Aborts as hs_netns_leave does. */
int hs_netns_new(void);

#endif
