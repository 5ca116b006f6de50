/* XDP on the eth0 of a packet NF's VM: every frame goes to the NF's AF_XDP socket; while there is
 * none (the NF is starting, or has died), frames are dropped: whoever routes through a firewall
 * must not get past it because it is down.
 *
 * The daemon loads and attaches it and puts the socket into the map: the VM needs no right to. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 1); /* a veth has one queue */
    __type(key, __u32);
    __type(value, __u32);
} sockets SEC(".maps");

SEC("xdp")
int capture(struct xdp_md *context) {
    return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
