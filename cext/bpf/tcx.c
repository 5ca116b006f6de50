// SPDX-License-Identifier: Apache-2.0
/* See bpf/tcx.h. This file: the calls, the one made in the other namespace. */
#include "bpf/tcx.h"
#include "ns/netns.h"

#include <bpf/bpf.h>
#include <errno.h>

enum { TCX_INGRESS = 46, TCX_EGRESS = 47 }; /* older headers than Linux 6.6's do not name them */
enum { LOOPBACK = 1 };

int hs_tcx_attach(int netns_fd, int prog_fd, uint32_t ifindex, int egress) {
    const int type = egress ? TCX_EGRESS : TCX_INGRESS;
    int ret = 0, home = hs_netns_enter(netns_fd); /* where the interface is looked for */

    if (home < 0)
        return home;
    if (bpf_prog_attach(prog_fd, (int)ifindex, (enum bpf_attach_type)type, 0) < 0)
        ret = -errno;
    hs_netns_leave(home);
    return ret;
}

int hs_tcx_known(void) {
    uint32_t flags, count = 0;

    return bpf_prog_query(LOOPBACK, (enum bpf_attach_type)TCX_EGRESS, 0, &flags, NULL, &count) ==
               0 ||
           errno != EINVAL;
}
