// SPDX-License-Identifier: Apache-2.0
/* What an interface leaves to its hardware (ethtool(8), linux/ethtool.h). */
#ifndef HS_OFFLOAD_H
#define HS_OFFLOAD_H

/* The switch's end of a VM's veth finishes what kernels leave to their hardware: checksums, the
 * cutting of large segments, VLAN tags; an AF_XDP socket behind the other end would get packets
 * without them. `on`: 0 to finish them in the kernel, 1 to leave them again. SIOCETHTOOL on
 * `interface` in the namespace. Returns 0 or a negative errno. */
int hs_offload(int netns_fd, const char *interface, int on);

#endif
