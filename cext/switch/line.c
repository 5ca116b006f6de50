// SPDX-License-Identifier: Apache-2.0
/* The line: its heap of frames, its thread, its time; the contract is in switch/line.h. */
#define _GNU_SOURCE
#include "switch/line.h"
#include "ns/quiet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#define NICE (-20)
#define SLICE 100000   /* ns: who asks for short turns is let in sooner (sched_setattr(2)) */
#define RUNTIME 400000 /* ns of each PERIOD that it may have of a processor, at most */
#define PERIOD 1000000
#define BURST 32 /* frames that are read before the next look at the time */
#define AGAIN 1000000
#define SECOND UINT64_C(1000000000)
#define FRAME_MAX ((1u << 16) + 512) /* a super-packet, and what stands before it */
#define TAG 4                        /* bytes of a VLAN tag */
#define MACS 12                      /* bytes before a tag's place */

struct held {
    uint64_t due, nth; /* nth: of all, in the order in which they came */
    uint32_t port, length;
    struct virtio_net_hdr offload;
    uint8_t frame[];
};

struct hs_line {
    pthread_t thread;
    bool started, exact;
    int tap, out, stop;
    uint32_t n;     /* held */
    uint64_t bytes; /* of them */
    uint64_t nth;
    uint64_t again; /* the socket was full: nothing is sent before; 0: it is not */
    _Atomic uint64_t came, sent, unsent; /* relaxed: counters that are read one by one */
    struct held
        *heap[HS_LINE_PACKETS]; /* whose time is first: at 0; the two behind i: 2i+1, 2i+2 */
    uint8_t buffer[FRAME_MAX];
};

static uint64_t now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static bool before(const struct held *a, const struct held *b) {
    return a->due != b->due ? a->due < b->due : a->nth < b->nth;
}

static void push(struct hs_line *l, struct held *one) {
    uint32_t at = l->n++;

    for (; at && before(one, l->heap[(at - 1) / 2]); at = (at - 1) / 2)
        l->heap[at] = l->heap[(at - 1) / 2];
    l->heap[at] = one;
    l->bytes += one->length;
}

static struct held *pop(struct hs_line *l) {
    struct held *first = l->heap[0], *last = l->heap[--l->n];
    uint32_t at = 0, next;

    while ((next = 2 * at + 1) < l->n) {
        if (next + 1 < l->n && before(l->heap[next + 1], l->heap[next]))
            next++;
        if (!before(l->heap[next], last))
            break;
        l->heap[at] = l->heap[next];
        at = next;
    }
    l->heap[at] = last;
    l->bytes -= first->length;
    return first;
}

static bool full(const struct hs_line *l) {
    return l->n == HS_LINE_PACKETS || l->bytes > HS_LINE_BYTES;
}

/* Take a frame of `length` bytes, as the TAP gave it, to be held. The kernel has put a VLAN tag
 * that it had beside the frame behind the first MACS bytes, which are in the head. Frames without a
 * head are the kernel's own at this interface. Returns 0, or a negative errno. */
static int take(struct hs_line *l, const struct virtio_net_hdr *offload, const uint8_t *data,
                size_t length) {
    const uint32_t magic = HS_LINE_MAGIC;
    struct hs_line_head head;
    uint8_t tag[TAG];
    size_t tagged = 0, size;
    struct held *one;

    if (length < sizeof(head) + TAG + ETH_HLEN)
        return -EBADMSG;
    memcpy(&head, data, sizeof(head));
    if (head.magic != magic) {
        if (memcmp(data + sizeof(head), &magic, sizeof(magic)) != 0)
            return -EBADMSG;
        memcpy(tag, data + MACS, TAG);
        tagged = TAG;
    }
    data += sizeof(head) + tagged;
    size = length - sizeof(head);
    one = malloc(sizeof(*one) + size);
    if (one == NULL)
        return -ENOMEM;
    *one = (struct held){.due = head.due,
                         .nth = l->nth++,
                         .port = head.port,
                         .length = (uint32_t)size,
                         .offload = *offload};
    memcpy(one->frame, data, MACS);
    memcpy(one->frame + MACS, tag, tagged);
    memcpy(one->frame + MACS + tagged, data + MACS, size - MACS - tagged);
    if (offload->hdr_len >= sizeof(head))
        one->offload.hdr_len = (uint16_t)(offload->hdr_len - sizeof(head));
    if (offload->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        one->offload.csum_start = (uint16_t)(offload->csum_start - sizeof(head));
    push(l, one);
    return 0;
}

/* Read what has come, a burst at most. Returns how many frames it was, or a negative errno. */
static int hear(struct hs_line *l) {
    struct virtio_net_hdr offload;
    struct iovec parts[] = {{&offload, sizeof(offload)}, {l->buffer, sizeof(l->buffer)}};
    int found = 0;

    while (found < BURST && !full(l)) {
        ssize_t size = readv(l->tap, parts, 2);

        if (size < 0)
            return found || errno == EAGAIN || errno == EINTR ? found : -errno;
        if ((size_t)size > sizeof(offload) &&
            take(l, &offload, l->buffer, (size_t)size - sizeof(offload)) == 0)
            atomic_fetch_add_explicit(&l->came, 1, memory_order_relaxed);
        found++;
    }
    return found;
}

union control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(uint32_t))];
};

/* Send a message with a mark of its own (socket(7), SO_MARK). */
static void put_mark(struct msghdr *message, union control *control, uint32_t mark) {
    *control = (union control){.head = {.cmsg_level = SOL_SOCKET,
                                        .cmsg_type = SO_MARK,
                                        .cmsg_len = CMSG_LEN(sizeof(mark))}};
    message->msg_control = control;
    message->msg_controllen = sizeof(*control);
    memcpy(CMSG_DATA(&control->head), &mark, sizeof(mark));
}

/* Send what is due. */
static void send_due(struct hs_line *l, uint64_t time) {
    if (l->again > time)
        return;
    l->again = 0;
    while (l->n && l->heap[0]->due <= time) {
        struct held *one = l->heap[0];
        struct sockaddr_ll to = {
            .sll_family = AF_PACKET, .sll_ifindex = one->port & 0xffff, .sll_halen = ETH_ALEN};
        struct iovec parts[] = {{&one->offload, sizeof(one->offload)}, {one->frame, one->length}};
        struct msghdr message = {
            .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = parts, .msg_iovlen = 2};
        union control control;

        if (one->port >> 16)
            put_mark(&message, &control, HS_LINE_MARKED | one->port >> 16);
        memcpy(&to.sll_protocol, one->frame + MACS, sizeof(to.sll_protocol));
        memcpy(to.sll_addr, one->frame, ETH_ALEN);
        if (sendmsg(l->out, &message, MSG_DONTWAIT) >= 0) {
            atomic_fetch_add_explicit(&l->sent, 1, memory_order_relaxed);
        } else if (errno == EAGAIN || errno == EINTR) {
            l->again = time + AGAIN;
            return;
        } else { /* ENOBUFS: the port's own queue has dropped it, and named it */
            atomic_fetch_add_explicit(&l->unsent, 1, memory_order_relaxed);
        }
        free(pop(l));
    }
}

/* Come before others: who is late here is late for a test. A deadline (sched(7), SCHED_DEADLINE) is
 * heard within microseconds on a busy machine, and has no more than its share of a processor, which
 * a flood cannot exceed. A machine that grants none gives a nice value, and short turns. */
static void come_first(void) {
    struct { /* struct sched_attr, which C libraries name since glibc 2.41 */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } wanted = {.size = sizeof(wanted),
                .policy = SCHED_DEADLINE,
                .runtime = RUNTIME,
                .deadline = PERIOD,
                .period = PERIOD};

    prctl(PR_SET_TIMERSLACK, 1);
    if (syscall(SYS_sched_setattr, 0, &wanted, 0) == 0)
        return;
    wanted.policy = SCHED_OTHER;
    wanted.nice = NICE;
    wanted.runtime = SLICE;
    wanted.deadline = wanted.period = 0;
    if (syscall(SYS_sched_setattr, 0, &wanted, 0) < 0)
        setpriority(PRIO_PROCESS, 0, NICE); /* of this thread; what cannot be is none */
}

static void *loop(void *argument) {
    struct hs_line *l = argument;
    bool deaf = false;

    if (l->exact)
        come_first();
    else /* as all threads of a daemon: what VMs run does not hold it up */
        setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, (id_t)getpid()));
    for (;;) {
        struct pollfd on[] = {{.fd = l->stop, .events = POLLIN}, {.fd = l->tap, .events = POLLIN}};
        struct timespec wait = {0}, *until = NULL;
        uint64_t time = now(), next;
        int found = deaf ? 0 : hear(l);

        if (found < 0)
            deaf = true; /* somebody has taken the TAP away */
        send_due(l, time);
        if (l->n) {
            next = l->heap[0]->due > l->again ? l->heap[0]->due : l->again;
            time = now();
            if (next > time) {
                wait.tv_sec = (time_t)((next - time) / SECOND);
                wait.tv_nsec = (long)((next - time) % SECOND);
            }
            until = &wait;
        }
        if (found == BURST)
            until = &wait, wait = (struct timespec){0};
        if (deaf || full(l))
            on[1].fd = -1;
        if (ppoll(on, 2, until, NULL) > 0 && on[0].revents)
            return NULL;
    }
}

int hs_line_new(struct hs_line **out_line, int tap, int out, bool exact) {
    struct hs_line *l = calloc(1, sizeof(*l));
    int ret = -ENOMEM;

    if (l == NULL) {
        close(tap);
        close(out);
        return ret;
    }
    l->tap = tap;
    l->out = out;
    l->exact = exact;
    l->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->stop < 0) {
        ret = -errno;
        goto out;
    }
    ret = hs_quiet_thread(&l->thread, loop, l);
    l->started = ret == 0;
out:
    if (ret < 0)
        hs_line_free(l);
    else
        *out_line = l;
    return ret;
}

void hs_line_free(struct hs_line *l) {
    const uint64_t one = 1;

    if (l == NULL)
        return;
    if (l->started) {
        (void)!write(l->stop, &one, sizeof(one));
        pthread_join(l->thread, NULL);
    }
    while (l->n)
        free(l->heap[--l->n]);
    if (l->stop >= 0)
        close(l->stop);
    close(l->tap);
    close(l->out);
    free(l);
}

void hs_line_counted(struct hs_line *l, struct hs_line_count *found) {
    *found = (struct hs_line_count){
        .held = atomic_load_explicit(&l->came, memory_order_relaxed),
        .sent = atomic_load_explicit(&l->sent, memory_order_relaxed),
        .unsent = atomic_load_explicit(&l->unsent, memory_order_relaxed),
    };
}
