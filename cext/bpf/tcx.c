/* See bpf/tcx.h. This file: the one call, made in the other namespace. */
#include "bpf/tcx.h"
#include "ns/netns.h"

#include <bpf/bpf.h>
#include <errno.h>

enum { TCX_INGRESS = 46 }; /* BPF_TCX_INGRESS; older headers than Linux 6.6's do not name it */

int hs_tcx_ingress(int netns_fd, int prog_fd, uint32_t ifindex) {
    int ret = 0, home = hs_netns_enter(netns_fd); /* where the interface is looked for */

    if (home < 0)
        return home;
    if (bpf_prog_attach(prog_fd, (int)ifindex, (enum bpf_attach_type)TCX_INGRESS, 0) < 0)
        ret = -errno;
    hs_netns_leave(home);
    return ret;
}
