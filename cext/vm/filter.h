// SPDX-License-Identifier: Apache-2.0
/* The system calls that a VM's programs do not get (seccomp(2)): what capabilities do not govern.
 *
 * The tables in vm/filter.c say which, with which errno, and why. libseccomp makes the program, for
 * this machine's own system calls and for its 32-bit ones; those of another table (x32) are ENOSYS.
 * Sockets are of the families in HS_FAMILIES only: opening one of another family would have the
 * kernel load that family's module. */
#ifndef HS_FILTER_H
#define HS_FILTER_H

#include <linux/filter.h>
#include <stdint.h>
#include <sys/socket.h>

/* A set of socket families, bit 1 << AF_*. */
#define HS_FAMILIES                                                                                \
    (UINT64_C(1) << AF_UNIX | UINT64_C(1) << AF_INET | UINT64_C(1) << AF_INET6 |                   \
     UINT64_C(1) << AF_NETLINK | UINT64_C(1) << AF_PACKET | UINT64_C(1) << AF_XDP)

/* A set of these bits. */
enum hs_filter_kind {
    HS_FILTER_PLAIN = 0,
    /* Of an operating system. A process 1 that ends after `reboot` and one that ends after
     * `poweroff` cannot be told apart, for without CAP_SYS_BOOT both get EPERM of reboot(2). So the
     * one that restarts kills its caller: SIGSYS is the reboot. */
    HS_FILTER_BOOT = 1,
    /* Of a VM with user ids of its own whose programs may make user namespaces, and so containers
     * in it: bwrap(1), podman(1). */
    HS_FILTER_NESTING = 2,
    HS_FILTER_KINDS = 4
};

/* The filter of a kind, made once for the process and never freed: *filter points to it. Returns 0
 * or a negative errno. May be called by several threads. Allocates: call it before a clone. */
int hs_filter(unsigned kind, const struct sock_fprog **filter);

#endif
