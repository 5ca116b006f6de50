// SPDX-License-Identifier: Apache-2.0
/* Kernel parameters of another network namespace (/proc/sys/net follows the namespace of the
 * thread that opens it: proc_sysctl.c asks for current's). */
#ifndef HS_SYSCTL_H
#define HS_SYSCTL_H
#include <stddef.h>

/* Write values[i] to the file paths[i], all below /proc/sys/net, as seen from the network namespace
 * `netns_fd` refers to. The calling thread is back in its own namespace when this returns.
 * Returns 0, or the first negative errno with its index in *failed (count: before any). Aborts if
 * the thread cannot return to its namespace. */
int hs_sysctl(int netns_fd, const char *const *paths, const char *const *values, size_t count,
              size_t *failed);

#endif
