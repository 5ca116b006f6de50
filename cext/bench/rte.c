// SPDX-License-Identifier: Apache-2.0
/* The peer `rte_ring` of `hostsim bench ring`: DPDK's ring of pointers to mbufs between two
 * processes that share all their memory and trust each other; nothing is copied or checked.
 *
 *   hostsim-bench-rte SIZE RING MBUFS CACHE WARM_UP_MS MEASURED_MS CPU CPU
 *
 * The first CPU's process allocates mbufs of SIZE bytes from a pool of MBUFS, writes a header of 48
 * bytes into each, and enqueues them; the second's, a child, dequeues, reads each header, and frees
 * them into the pool. One producer and one consumer of everything, bursts of 64; each process has a
 * cache of the pool. On standard output the packets that arrived per second, and how many had
 * another header than was due. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_per_lcore.h>
#include <rte_ring.h>

enum { BURST = 64, HEADER = 48 };

struct page {
    _Alignas(64) _Atomic uint32_t stop;
    _Alignas(64) _Atomic uint64_t count;
    _Alignas(64) _Atomic uint64_t wrong;
};

static int stopped(struct page *page) {
    return atomic_load_explicit(&page->stop, memory_order_relaxed) != 0;
}

static void fill(uint8_t rest[HEADER - sizeof(uint64_t)], uint32_t len) {
    for (uint32_t i = 0; i < HEADER - sizeof(uint64_t); i++)
        rest[i] = (uint8_t)(len + i);
}

/* The process is DPDK's lcore `number`, on a CPU: it has that lcore's cache of the pool. */
static void become(unsigned int number, int cpu) {
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set);
    RTE_PER_LCORE(_lcore_id) = number;
}

static void source(struct rte_ring *ring, struct rte_mempool *pool, struct page *page,
                   uint32_t len) {
    struct rte_mbuf *mbufs[BURST];
    uint8_t rest[HEADER - sizeof(uint64_t)];
    uint64_t number = 0;

    fill(rest, len);
    while (!stopped(page)) {
        unsigned int sent = 0, i;

        if (rte_pktmbuf_alloc_bulk(pool, mbufs, BURST) < 0)
            continue;
        for (i = 0; i < BURST; i++) {
            uint8_t *at = rte_pktmbuf_mtod(mbufs[i], uint8_t *);

            mbufs[i]->data_len = (uint16_t)len;
            mbufs[i]->pkt_len = len;
            memcpy(at, &number, sizeof(number));
            memcpy(at + sizeof(number), rest, sizeof(rest));
            number++;
        }
        while (sent < BURST && !stopped(page))
            sent += rte_ring_sp_enqueue_burst(ring, (void **)mbufs + sent, BURST - sent, NULL);
    }
}

static void sink(struct rte_ring *ring, struct page *page, uint32_t len) {
    struct rte_mbuf *mbufs[BURST];
    uint8_t rest[HEADER - sizeof(uint64_t)];
    uint64_t count = 0, wrong = 0, number;

    fill(rest, len);
    while (!stopped(page)) {
        const unsigned int n = rte_ring_sc_dequeue_burst(ring, (void **)mbufs, BURST, NULL);

        for (unsigned int i = 0; i < n; i++) {
            const uint8_t *at = rte_pktmbuf_mtod(mbufs[i], const uint8_t *);

            memcpy(&number, at, sizeof(number));
            wrong += number != count + i || memcmp(at + sizeof(number), rest, sizeof(rest)) != 0;
        }
        if (n)
            rte_pktmbuf_free_bulk(mbufs, n);
        count += n;
        atomic_store_explicit(&page->count, count, memory_order_relaxed);
    }
    atomic_store_explicit(&page->wrong, wrong, memory_order_relaxed);
}

static double now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void wait_ms(long ms) {
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&time, NULL);
}

/* A child that ends with us. Returns as fork(2) does. */
static pid_t child(void) {
    const pid_t pid = fork();

    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static int fail(const char *what) {
    fprintf(stderr, "hostsim-bench-rte: %s: %s\n", what, strerror(rte_errno ? rte_errno : errno));
    return 1;
}

int main(int argc, char **argv) {
    /* Memory of a memfd, which a child shares; of pages as a ring of hostsim's has them. */
    char memory[16];
    char *eal[] = {argv[0],       "--no-huge",      "-m",       memory, "--no-pci",
                   "--no-shconf", "--no-telemetry", "--lcores", "0",    "--log-level=lib.*:error"};
    uint32_t len, ring_size, mbufs, cache;
    struct rte_mempool *pool;
    struct rte_ring *ring;
    struct page *page;
    uint64_t before, after;
    double begun, ended;
    pid_t ends[2];
    int status, failed = 0;

    if (argc != 9)
        return 2;
    len = (uint32_t)atoi(argv[1]);
    ring_size = (uint32_t)atoi(argv[2]);
    mbufs = (uint32_t)atoi(argv[3]);
    cache = (uint32_t)atoi(argv[4]);
    snprintf(memory, sizeof(memory), "%u", 32 + (mbufs >> 10) * (len + 1024) / 1024); /* MB */
    if (rte_eal_init((int)(sizeof(eal) / sizeof(*eal)), eal) < 0)
        return fail("EAL");
    page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return fail("memory");
    pool = rte_pktmbuf_pool_create_by_ops("mbufs", mbufs, cache, 0,
                                          (uint16_t)(len + RTE_PKTMBUF_HEADROOM), SOCKET_ID_ANY,
                                          "ring_sp_sc");
    ring = rte_ring_create("ring", ring_size, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
    if (!pool || !ring)
        return fail("pool and ring");
    for (unsigned int i = 0; i < 2; i++) {
        ends[i] = child();
        if (ends[i] < 0)
            return fail("fork");
        if (ends[i] == 0) {
            become(i, atoi(argv[7 + i]));
            if (i == 0)
                source(ring, pool, page, len);
            else
                sink(ring, page, len);
            _exit(0);
        }
    }
    wait_ms(atol(argv[5]));
    begun = now();
    before = atomic_load(&page->count);
    wait_ms(atol(argv[6]));
    after = atomic_load(&page->count);
    ended = now();
    atomic_store(&page->stop, 1);
    for (unsigned int i = 0; i < 2; i++)
        if (waitpid(ends[i], &status, 0) < 0 || status != 0)
            failed = 1;
    printf("%.0f %llu\n", (double)(after - before) / (ended - begun),
           (unsigned long long)atomic_load(&page->wrong));
    return failed;
}
