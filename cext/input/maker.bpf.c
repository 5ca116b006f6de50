// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which process made an input device: the cgroups that it was in when the kernel was asked for the
 * device (fentry of input_register_device, which runs in that process: UI_DEV_CREATE of uinput(4)
 * does, and so does a driver's probe). No process can choose its cgroup's id, and one in a VM
 * cannot leave its cgroup.
 *
 * `makers` is written before any node of the device is there, or any message of it sent; `made`
 * gets the device's name when all of its nodes are. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kobject {
    const char *name;
};
struct device {
    struct kobject kobj;
};
struct input_dev {
    struct device dev;
};
#pragma clang attribute pop

/* netns/makers.py has the same. */
#define LEVELS 16

struct name {
    char text[16]; /* input12 */
};

struct line {
    __u64 ids[LEVELS]; /* of the cgroup at each depth, from the root on; 0: none */
};

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct name);
    __type(value, struct line);
} makers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 64 << 10);
} made SEC(".maps");

static void name_of(struct input_dev *dev, struct name *name) {
    bpf_probe_read_kernel_str(name->text, sizeof(name->text), BPF_CORE_READ(dev, dev.kobj.name));
}

SEC("fentry/input_register_device")
int BPF_PROG(begin, struct input_dev *dev) {
    struct name name = {};
    struct line line = {};

    name_of(dev, &name);
    for (int level = 0; level < LEVELS; level++)
        line.ids[level] = bpf_get_current_ancestor_cgroup_id(level);
    bpf_map_update_elem(&makers, &name, &line, BPF_ANY);
    return 0;
}

SEC("fexit/input_register_device")
int BPF_PROG(end, struct input_dev *dev, int ret) {
    struct name name = {};

    if (ret)
        return 0;
    name_of(dev, &name);
    bpf_ringbuf_output(&made, &name, sizeof(name),
                       0); /* full: its udev message comes all the same */
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
