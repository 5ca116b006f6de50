// SPDX-License-Identifier: Apache-2.0
/* What keeps root of a VM from being root of the machine, for a process about to execute a program
 * there: capabilities(7) and seccomp(2).
 *
 * The bounding set keeps the capabilities of vm/confine.c's list; the exec that follows takes the
 * rest from the permitted set too. Until that exec the process is above every process of the VM in
 * capabilities, and CAP_SYS_PTRACE is not in the list, so none of them can read or stop it while it
 * still holds its caller's memory and descriptors.
 *
 * The filter (vm/filter.h) refuses what capabilities do not govern. */
#ifndef HS_CONFINE_H
#define HS_CONFINE_H

#include <linux/filter.h>

/* Returns 0 or a negative errno. Uses nothing but system calls. */
int hs_confine(const struct sock_fprog *filter);

#endif
