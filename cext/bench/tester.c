// SPDX-License-Identifier: Apache-2.0
/* See bench/tester.h. This file: the loop that runs the source by BPF_PROG_TEST_RUN, in bursts. */
#define _GNU_SOURCE
#include "bench/tester.h"
#include "ns/netns.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <time.h>

enum { PAUSE_NS = 50000, REPEAT = 8 };

static __u64 now(clockid_t clock) {
    struct timespec t;

    clock_gettime(clock, &t);
    return (__u64)t.tv_sec * 1000000000u + (__u64)t.tv_nsec;
}

/* `bursts` bursts of n frames each. Returns 0 or a negative errno. */
static int send_some(int prog_fd, const void *frame, struct hs_tester *run, __u32 n, int bursts) {
    struct __sk_buff context = {.ifindex = run->ifindex};
    LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &context, .ctx_size_in = sizeof(context),
                .data_in = frame, .data_size_in = HS_TESTER_FRAME, .repeat = bursts);

    context.cb[HS_CB_COUNT] = n;
    context.cb[HS_CB_NUMBER] = (__u32)(run->first + run->sent);
    context.cb[HS_CB_SOURCE] = run->source;
    if (bpf_prog_test_run_opts(prog_fd, &opts) < 0)
        return -errno;
    run->sent += (__u64)n * (unsigned)bursts;
    return 0;
}

static int stream(int prog_fd, const void *frame, const uint64_t *counter, struct hs_tester *run) {
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    const __u64 before = __atomic_load_n(counter, __ATOMIC_ACQUIRE);
    const __u64 start = now(CLOCK_MONOTONIC), end = start + run->ms * 1000000u;
    __u64 last = start, t = start, given_up = 0;
    int ret;

    for (;;) {
        /* Pairs with `arrive`'s addition. */
        __u64 got = __atomic_load_n(counter, __ATOMIC_ACQUIRE) - before;
        /* One given up may come later all the same: then more have come than are missing. */
        __u64 flying = got + given_up < run->sent ? run->sent - got - given_up : 0;
        __u64 left = run->count && t < end ? run->count - run->sent : t < end ? ~0ull : 0;
        __u64 room = run->window > flying ? run->window - flying : 0;
        __u32 n = HS_TESTER_BURST;

        if (got > run->sent)
            return -EPROTO;
        if (got != run->got)
            last = t;
        run->got = got;
        if (!left && !flying)
            break;
        if (room > left)
            room = left;
        if (n > room)
            n = (__u32)room;
        if (n) {
            int bursts = (int)(room / n < REPEAT ? room / n : REPEAT);

            ret = send_some(prog_fd, frame, run, n, bursts);
            if (ret < 0)
                return ret;
        } else if (t - last > HS_TESTER_QUIET_MS * 1000000ull) {
            given_up = run->sent - got;
            last = t;
        } else if (t - last < PAUSE_NS) {
            sched_yield(); /* to the kernel's thread that carries them */
        } else {
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        }
        t = now(CLOCK_MONOTONIC);
    }
    run->lost = run->sent - run->got;
    run->ns = last - start;
    return 0;
}

int hs_tester_run(int netns_fd, int prog_fd, const void *frame, const uint64_t *got,
                  struct hs_tester *run) {
    __u64 cpu = now(CLOCK_THREAD_CPUTIME_ID);
    int ret, home;

    run->sent = run->got = run->lost = run->ns = 0;
    if (!run->window)
        return -EINVAL;
    home = hs_netns_enter(netns_fd); /* where the interface is looked for */
    if (home < 0)
        return home;
    ret = stream(prog_fd, frame, got, run);
    hs_netns_leave(home);
    run->cpu_ns = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    return ret;
}
