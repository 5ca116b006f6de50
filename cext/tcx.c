/* See tcx.h. */
#define _GNU_SOURCE
#include "tcx.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

enum { TCX_INGRESS = 46 }; /* BPF_TCX_INGRESS; older headers than Linux 6.6's do not name it */

int hs_tcx_ingress(int netns_fd, int prog_fd, uint32_t ifindex) {
    int ret = 0, home;

    home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return -errno;
    if (setns(netns_fd, CLONE_NEWNET) < 0) { /* where the interface is looked for */
        ret = -errno;
        goto out;
    }
    if (bpf_prog_attach(prog_fd, (int)ifindex, (enum bpf_attach_type)TCX_INGRESS, 0) < 0)
        ret = -errno;
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
out:
    close(home);
    return ret;
}
