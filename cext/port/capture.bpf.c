// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* XDP on the eth0 of a packet NF's VM: every frame goes to the NF's AF_XDP socket; while there is
 * none (the NF is starting, or has died), frames are dropped: whoever routes through a firewall
 * must not get past it because it is down.
 *
 * ARP, and frames to a group, are for the VM's own kernel, which answers for the addresses that the
 * VM has (a translator's outside address) and forwards neither. So an NF never sees a broadcast,
 * and two of them cannot send one round and round.
 *
 * The daemon loads and attaches it and puts the socket into the map: the VM needs no right to. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 1); /* a veth has one queue */
    __type(key, __u32);
    __type(value, __u32);
} sockets SEC(".maps");

static __always_inline int give(struct xdp_md *context) {
    const struct ethhdr *eth = (void *)(long)context->data;

    if ((void *)(eth + 1) > (void *)(long)context->data_end)
        return XDP_DROP;
    if (eth->h_dest[0] & 1 || eth->h_proto == bpf_htons(ETH_P_ARP))
        return XDP_PASS;
    return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP);
}

SEC("xdp")
int capture(struct xdp_md *context) {
    return give(context);
}

/* The same for packets that are longer than a page (Linux 6.6: Documentation/networking/af_xdp.rst,
 * "Multi-Buffer Support"). */
SEC("xdp.frags")
int capture_pieces(struct xdp_md *context) {
    return give(context);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
