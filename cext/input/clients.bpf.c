// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Who has an input device open, by the kernel's own list of it (drivers/input/evdev.c): every open
 * file of the device that is not closed is on it, and nothing else, whoever has it and wherever it
 * is: in a process, in flight in a socket.
 *
 * Run on demand (BPF_PROG_TEST_RUN), as a raw tracepoint's program: then RCU is held for the list.
 * Its first argument is a descriptor of the caller's, an open file of the device. Both return a
 * number, or UNKNOWN. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define UNKNOWN (-1)

#define CLIENTS_MOST 128 /* of one device: what is more takes too long */
#define EVENTS_MOST 4096 /* of one file */
#define EV_SYN 0

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct file {
    void *private_data;
};
struct fdtable {
    unsigned int max_fds;
    struct file **fd;
};
struct files_struct {
    struct fdtable *fdt;
};
struct task_struct {
    struct files_struct *files;
};
struct list_head {
    struct list_head *next;
};
struct evdev {
    struct list_head client_list;
};
struct input_event {
    __u16 type;
};
struct evdev_client {
    unsigned int tail, packet_head;
    struct evdev *evdev;
    struct list_head node;
    _Bool revoked;
    unsigned int bufsize;
    struct input_event buffer[];
};
#pragma clang attribute pop

static struct evdev_client *client_of(__u64 fd) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct fdtable *table = BPF_CORE_READ(task, files, fdt);
    struct file **files = BPF_CORE_READ(table, fd), *file = NULL;

    if (fd >= BPF_CORE_READ(table, max_fds) ||
        bpf_probe_read_kernel(&file, sizeof(file), files + fd) < 0 || !file)
        return NULL;
    return BPF_CORE_READ(file, private_data);
}

/* How many open files of the device are not revoked, without the caller's: this one, and the one
 * that the second argument names, if it names one. */
SEC("raw_tp/sys_enter")
int clients_others(struct bpf_raw_tracepoint_args *ctx) {
    struct evdev_client *client = client_of(ctx->args[0]), *also = client_of(ctx->args[1]), *other;
    struct evdev *evdev = BPF_CORE_READ(client, evdev);
    struct list_head *head, *at;
    int others = 0;

    if (!client || !evdev)
        return UNKNOWN;
    head = &evdev->client_list;
    at = BPF_CORE_READ(head, next);
    for (int i = 0; i < CLIENTS_MOST; i++) {
        if (at == head)
            return others;
        if (!at)
            return UNKNOWN;
        other = (void *)at - bpf_core_field_offset(struct evdev_client, node);
        others += other != client && other != also && !BPF_CORE_READ(other, revoked);
        at = BPF_CORE_READ(at, next);
    }
    return UNKNOWN;
}

/* How many events wait in the open file. None reaches it any more. */
SEC("raw_tp/sys_enter")
int clients_waiting(struct bpf_raw_tracepoint_args *ctx) {
    struct evdev_client *client = client_of(ctx->args[0]);
    unsigned int tail = BPF_CORE_READ(client, tail), end = BPF_CORE_READ(client, packet_head);
    unsigned int size = BPF_CORE_READ(client, bufsize);
    unsigned int event = bpf_core_type_size(struct input_event);
    unsigned int place = bpf_core_field_offset(struct input_event, type);
    void *buffer = (void *)client + bpf_core_field_offset(struct evdev_client, buffer);
    int waiting = 0;

    if (!client)
        return UNKNOWN;
    for (int i = 0; i < EVENTS_MOST; i++) {
        __u16 type = EV_SYN;

        if (tail == end)
            return waiting;
        bpf_probe_read_kernel(&type, sizeof(type), buffer + tail * event + place);
        waiting += type != EV_SYN;
        tail = (tail + 1) & (size - 1);
    }
    return UNKNOWN;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
