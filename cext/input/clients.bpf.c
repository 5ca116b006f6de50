// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Who has an input device open, by the kernel's own list of it (drivers/input/evdev.c): every open
 * file of the device that is not closed is on it, and nothing else, whoever has it and wherever it
 * is: in a process, in flight in a socket.
 *
 * Run on demand (BPF_PROG_TEST_RUN), as a raw tracepoint's program: then RCU is held for the list.
 * Its first argument is a descriptor of the caller's, an open file of the device. All return a
 * number, or UNKNOWN. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define UNKNOWN (-1)
#define NOBODY ((__u64)-1) /* in place of a descriptor */

#define CLIENTS_MOST 128 /* of one device: what is more takes too long */
#define KNOWN 12         /* HS_CLIENTS_KNOWN: as many arguments as such a program can have */
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

static struct fdtable *own_table(void) {
    struct task_struct *task = (void *)bpf_get_current_task();

    return BPF_CORE_READ(task, files, fdt);
}

static struct evdev_client *client_in(struct fdtable *table, __u64 fd) {
    struct file **files = BPF_CORE_READ(table, fd), *file = NULL;

    if (fd >= BPF_CORE_READ(table, max_fds) ||
        bpf_probe_read_kernel(&file, sizeof(file), files + fd) < 0 || !file)
        return NULL;
    return BPF_CORE_READ(file, private_data);
}

static struct evdev_client *client_of(__u64 fd) {
    return client_in(own_table(), fd);
}

/* Without a branch for each: the verifier would follow every path through them. */
static __u64 is_new(const __u64 *known, __u64 client) {
    __u64 differs = 1;

#pragma unroll
    for (int k = 0; k < KNOWN; k++)
        differs &= ((known[k] ^ client) | -(known[k] ^ client)) >> 63;
    return differs;
}

/* A walk along the device's list. at: where it is; others: of those it has passed. */
struct walk {
    __u64 known[KNOWN];
    struct list_head *head, *at;
    int others;
};

/* One file, or the end of the list: then it ends. */
static long walk_on(__u32 i, struct walk *walk) {
    struct list_head *at = walk->at;
    __u64 other = (__u64)at - bpf_core_field_offset(struct evdev_client, node);

    if (at == walk->head || !at)
        return 1;
    if (is_new(walk->known, other) && !BPF_CORE_READ((struct evdev_client *)other, revoked))
        walk->others++;
    walk->at = BPF_CORE_READ(at, next);
    return 0;
}

/* How many open files of the device are not revoked, without those that the arguments name: what
 * of these is named twice, is revoked, or is no open file, makes no difference. */
SEC("raw_tp/sys_enter")
int clients_others(struct bpf_raw_tracepoint_args *ctx) {
    struct fdtable *table = own_table();
    struct evdev_client *client = client_in(table, ctx->args[0]);
    struct evdev *evdev = BPF_CORE_READ(client, evdev);
    struct walk walk = {};
    struct list_head *head;

    if (!client || !evdev)
        return UNKNOWN;
#pragma unroll
    for (int k = 0; k < KNOWN; k++) /* none is 0, as none of the list is */
        walk.known[k] = ctx->args[k] == NOBODY ? 0 : (__u64)client_in(table, ctx->args[k]);
    walk.head = head = &evdev->client_list;
    walk.at = BPF_CORE_READ(head, next);
    bpf_loop(CLIENTS_MOST, walk_on, &walk, 0);
    return walk.at == head ? walk.others : UNKNOWN;
}

/* A walk along the events that wait in an open file: the next one, where they end, how many it has
 * passed without SYN. */
struct queue {
    void *buffer;
    unsigned int tail, end, size;
    int waiting;
};

static long queue_on(__u32 i, struct queue *queue) {
    unsigned int event = bpf_core_type_size(struct input_event);
    unsigned int place = bpf_core_field_offset(struct input_event, type);
    __u16 type = EV_SYN;

    if (queue->tail == queue->end)
        return 1;
    bpf_probe_read_kernel(&type, sizeof(type), queue->buffer + queue->tail * event + place);
    queue->waiting += type != EV_SYN;
    queue->tail = (queue->tail + 1) & (queue->size - 1);
    return 0;
}

/* How many events wait in the open file. None reaches it any more. */
SEC("raw_tp/sys_enter")
int clients_waiting(struct bpf_raw_tracepoint_args *ctx) {
    struct evdev_client *client = client_of(ctx->args[0]);
    struct queue queue = {
        .buffer = (void *)client + bpf_core_field_offset(struct evdev_client, buffer),
        .tail = BPF_CORE_READ(client, tail),
        .end = BPF_CORE_READ(client, packet_head),
        .size = BPF_CORE_READ(client, bufsize),
    };

    if (!client)
        return UNKNOWN;
    bpf_loop(EVENTS_MOST, queue_on, &queue, 0);
    return queue.tail == queue.end ? queue.waiting : UNKNOWN;
}

/* Where in the open file the next event will be put: a place, for the next one. */
SEC("raw_tp/sys_enter")
int clients_place(struct bpf_raw_tracepoint_args *ctx) {
    struct evdev_client *client = client_of(ctx->args[0]);

    return client ? (int)BPF_CORE_READ(client, packet_head) : UNKNOWN;
}

/* How many events that came before a place, the second argument, have not been read; SYN counts. Of
 * a file that has overflowed since, the kernel itself has thrown them away. */
SEC("raw_tp/sys_enter")
int clients_before(struct bpf_raw_tracepoint_args *ctx) {
    struct evdev_client *client = client_of(ctx->args[0]);
    unsigned int tail = BPF_CORE_READ(client, tail), end = BPF_CORE_READ(client, packet_head);
    unsigned int mask = BPF_CORE_READ(client, bufsize) - 1, place = (unsigned int)ctx->args[1];

    if (!client)
        return UNKNOWN;
    return ((tail - place) & mask) <= ((end - place) & mask) ? 0 : (int)((place - tail) & mask);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
