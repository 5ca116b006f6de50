// SPDX-License-Identifier: Apache-2.0
/* A queue of files with the time each is to be closed at, and the threads that close them; the
 * contract is in input/keeper.h. One mutex holds the whole state; nothing between threads rests on
 * atomics. */
#define _GNU_SOURCE
#include "input/keeper.h"
#include "ns/quiet.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4 /* so many waits for RCU go on at once */

struct kept {
    int fd;
    struct timespec due; /* CLOCK_MONOTONIC */
};

struct hs_keeper {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[THREADS];
    unsigned n_threads;
    bool stop;
    uint32_t first, n, closing; /* of the queue, the oldest first; on their way out */
    struct kept queue[HS_KEEPER_MOST];
};

static struct timespec from_now(unsigned ms) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)ms * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static bool is_due(const struct timespec *due) {
    struct timespec now = from_now(0);

    return now.tv_sec != due->tv_sec ? now.tv_sec > due->tv_sec : now.tv_nsec >= due->tv_nsec;
}

static void *run(void *arg) {
    struct hs_keeper *k = arg;

    pthread_mutex_lock(&k->lock);
    for (;;) {
        struct kept *oldest = &k->queue[k->first % HS_KEEPER_MOST];
        int fd;

        if (k->n == 0) {
            if (k->stop)
                break;
            pthread_cond_wait(&k->changed, &k->lock);
            continue;
        }
        if (!k->stop && !is_due(&oldest->due)) {
            struct timespec due = oldest->due;

            pthread_cond_timedwait(&k->changed, &k->lock, &due);
            continue;
        }
        fd = oldest->fd;
        k->first++;
        k->n--;
        k->closing++;
        pthread_mutex_unlock(&k->lock);
        close(fd);
        pthread_mutex_lock(&k->lock);
        k->closing--;
    }
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

/* Where not one thread starts, add closes at once. */
static void start(struct hs_keeper *k) {
    while (k->n_threads < THREADS && hs_quiet_thread(&k->threads[k->n_threads], run, k) == 0)
        k->n_threads++;
}

int hs_keeper_new(struct hs_keeper **out) {
    pthread_condattr_t monotonic;
    struct hs_keeper *k;

    k = calloc(1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    pthread_mutex_init(&k->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&k->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    start(k);
    *out = k;
    return 0;
}

void hs_keeper_free(struct hs_keeper *k) {
    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    for (unsigned i = 0; i < k->n_threads; i++)
        pthread_join(k->threads[i], NULL);
    pthread_cond_destroy(&k->changed);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

void hs_keeper_add(struct hs_keeper *k, int fd) {
    pthread_mutex_lock(&k->lock);
    if (k->n_threads > 0 && k->n < HS_KEEPER_MOST) {
        k->queue[(k->first + k->n++) % HS_KEEPER_MOST] =
            (struct kept){.fd = fd, .due = from_now(HS_KEEPER_MS)};
        pthread_cond_signal(&k->changed);
        fd = -1;
    }
    pthread_mutex_unlock(&k->lock);
    if (fd >= 0)
        close(fd);
}

uint32_t hs_keeper_count(struct hs_keeper *k) {
    uint32_t count;

    pthread_mutex_lock(&k->lock);
    count = k->n + k->closing;
    pthread_mutex_unlock(&k->lock);
    return count;
}
