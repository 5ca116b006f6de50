// SPDX-License-Identifier: Apache-2.0
/* Sockets that live in another network namespace (setns(2), socket(2)). */
#ifndef HS_SOCK_H
#define HS_SOCK_H

/* Open a socket in the network namespace `netns_fd` refers to; the calling thread is back in its
 * own namespace when this returns. SOCK_CLOEXEC is always set.
 * Returns the descriptor, which the caller owns, or a negative errno. Aborts if the thread cannot
 * return to its namespace, for then nothing it does afterwards is where the caller thinks. */
int hs_socket_at(int netns_fd, int domain, int type, int protocol);

/* The same for two that are connected (socketpair(2)). Returns 0 or a negative errno. */
int hs_socketpair_at(int netns_fd, int domain, int type, int protocol, int pair[2]);

#endif
