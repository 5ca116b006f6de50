// SPDX-License-Identifier: Apache-2.0
/* Attaching a program to an interface's tc hooks without a qdisc (tcx, Linux 6.6): what runs it
 * costs a third of what clsact and cls_bpf do, and the interface stays free for qdiscs of its
 * user's own. The attachment is the interface's, and goes with it; it comes before anything at
 * clsact, and no netlink message takes it away. */
#ifndef HS_TCX_H
#define HS_TCX_H
#include <stdint.h>

/* To the ingress or egress of the interface of the namespace netns_fd. Returns 0 or a negative
 * errno: EINVAL if the kernel has no tcx. */
int hs_tcx_attach(int netns_fd, int prog_fd, uint32_t ifindex, int egress);

/* Whether the kernel has tcx. */
int hs_tcx_known(void);

#endif
