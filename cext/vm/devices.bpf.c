// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The devices of a VM: a cgroup device program (BPF_PROG_TYPE_CGROUP_DEVICE, attached to the VM's
 * v2 directory). It lets through a fixed list of character devices, the ones in vm/root.c and the
 * VM's own terminals, and what the map `extra` holds; everything else, and every block device, is
 * refused with EPERM. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct device {
    __u32 major;
    __u32 minor;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 256);
    __type(key, struct device);
    __type(value, __u8);
} extra SEC(".maps");

SEC("cgroup/dev")
int device(struct bpf_cgroup_dev_ctx *ctx) {
    struct device key = {.major = ctx->major, .minor = ctx->minor};

    if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_CHAR)
        return 0;
    switch (key.major) {
    case 1: /* null, zero, full, random, urandom */
        if (key.minor == 3 || key.minor == 5 || (key.minor >= 7 && key.minor <= 9))
            return 1;
        break;
    case 5: /* tty, ptmx */
        if (key.minor == 0 || key.minor == 2)
            return 1;
        break;
    default: /* Unix98 terminals: only those of the VM's own devpts can be reached */
        if (key.major >= 136 && key.major <= 143)
            return 1;
    }
    return bpf_map_lookup_elem(&extra, &key) != 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
