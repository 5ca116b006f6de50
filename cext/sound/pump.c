// SPDX-License-Identifier: Apache-2.0
/* The sound pump: its thread, its lock, its loops; the contract is in sound/pump.h. */
#define _GNU_SOURCE
#include "sound/pump.h"
#include "ns/quiet.h"
#include "sound/pcm.h"

#include <errno.h>
#include <pthread.h>
#include <sound/asound.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define TICK_MS 5
#define NICE (-20)
#define WAKE UINT64_MAX
#define TICK (UINT64_MAX - 1)
#define STEER 200      /* ticks between two corrections of a loop's clock */
#define EVEN 100000    /* what the loop's clock is set to if it is to run as it does */
#define STEER_MOST 200 /* ... and by how much more or less; 0.2 % are not heard */
#define BATCH 4096     /* frames that are copied at once */
#define EVENTS 64      /* of a control descriptor that are read at once */
#define FRAME_MAX (32 * 4)

struct loop {
    int capture, control;
    bool active; /* its OS plays; then the capture side runs */
    bool deaf;   /* its control descriptor has been looked at, and is not again before a tick */
    long clock;
};

struct hs_pump {
    pthread_t thread;
    pthread_mutex_t lock;
    int epoll, wake, timer, card;
    bool started, stop;
    bool ticking;
    bool running; /* the card plays */
    struct hs_pcm_form form;
    uint32_t fill, margin; /* frames */
    int owner;             /* -1: nobody */
    unsigned n_loops;
    struct loop loops[HS_PUMP_LOOPS];
    double mean;    /* of the frames in the card's store */
    unsigned ticks; /* since the last correction */
    struct hs_pump_stats stats;
    uint8_t frames[BATCH * FRAME_MAX];
};

static void tick(struct hs_pump *p, bool on) {
    struct itimerspec every = {{0}};

    if (on == p->ticking)
        return;
    if (on) {
        every.it_value.tv_nsec = every.it_interval.tv_nsec = TICK_MS * 1000000L;
    }
    timerfd_settime(p->timer, 0, &every, NULL);
    p->ticking = on;
}

/* The card has nothing of anybody's, and plays nothing. */
static void quiet(struct hs_pump *p) {
    if (p->running) {
        hs_pcm_drop(p->card);
        hs_pcm_prepare(p->card);
    }
    p->running = false;
    tick(p, false);
}

/* An element of device 1 of a loop's card (aloop.c). */
static void element(struct snd_ctl_elem_value *value, const char *name) {
    memset(value, 0, sizeof(*value));
    value->id.iface = SNDRV_CTL_ELEM_IFACE_PCM;
    value->id.device = 1;
    memcpy(value->id.name, name, strlen(name));
}

/* The loop's clock and the card's are two: have the loop's run so that the store stays as it is. By
 * 1 ms too much in store it becomes 0.01 % slower. */
static void steer(struct hs_pump *p, struct loop *l, int64_t store) {
    struct snd_ctl_elem_value value;
    double much;
    long clock;

    p->mean += ((double)store - p->mean) / 64;
    if (++p->ticks < STEER)
        return;
    p->ticks = 0;
    much = (p->mean - p->fill) * 10000 / p->form.rate;
    clock = EVEN + (long)(much > STEER_MOST ? STEER_MOST : much < -STEER_MOST ? -STEER_MOST : much);
    if (clock == l->clock)
        return;
    element(&value, "PCM Rate Shift 100000");
    value.value.integer.value[0] = l->clock = clock;
    ioctl(l->control, SNDRV_CTL_IOCTL_ELEM_WRITE, &value);
}

static void silence(struct hs_pump *p, uint32_t frames) {
    while (frames) {
        uint32_t now = frames < BATCH ? frames : BATCH;
        int64_t done;

        memset(p->frames, 0, (size_t)now * p->form.bytes);
        done = hs_pcm_write(p->card, p->frames, now);
        if (done <= 0)
            return;
        p->stats.padded += (uint64_t)done;
        frames -= (uint32_t)done;
    }
}

/* Bounded: a loop and the card hold half a second each. */
static void copy(struct hs_pump *p, const struct loop *l) {
    for (unsigned most = p->form.buffer / BATCH + 2; most; most--) {
        int64_t there = hs_pcm_read(l->capture, p->frames, BATCH), done;

        if (there <= 0)
            return;
        done = hs_pcm_write(p->card, p->frames, (uint32_t)there);
        if (done > 0)
            p->stats.played += (uint64_t)done;
        p->stats.dropped += (uint64_t)(there - (done > 0 ? done : 0));
        if (done < there || there < BATCH)
            return;
    }
}

/* Leave no more in a loop than this. */
static void shorten(struct hs_pump *p, const struct loop *l, uint32_t frames) {
    int64_t there = hs_pcm_waiting(l->capture);

    if (there > frames) {
        there = hs_pcm_skip(l->capture, (uint32_t)(there - frames));
        if (there > 0)
            p->stats.dropped += (uint64_t)there;
    }
}

/* The card begins with what the owner's loop has, behind enough silence to make its store full. */
static void begin(struct hs_pump *p, const struct loop *l) {
    int64_t there;

    shorten(p, l, p->fill);
    there = hs_pcm_waiting(l->capture);
    if (p->running) { /* some frames of the owner before are in the card */
        int64_t old = hs_pcm_waiting(p->card);

        if (old >= 0)
            there += old;
        else
            p->running = false;
    }
    if (!p->running) {
        hs_pcm_drop(p->card);
        hs_pcm_prepare(p->card);
    }
    if (there < p->fill)
        silence(p, p->fill - (uint32_t)(there < 0 ? 0 : there));
    copy(p, l);
    if (!p->running)
        p->running = hs_pcm_start(p->card) == 0;
    p->mean = p->fill;
    p->ticks = 0;
    tick(p, true);
}

static void hear(struct hs_pump *p) {
    for (unsigned i = 0; i < p->n_loops; i++)
        if (p->loops[i].deaf) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = i};

            epoll_ctl(p->epoll, EPOLL_CTL_MOD, p->loops[i].control, &event);
            p->loops[i].deaf = false;
        }
}

static void work(struct hs_pump *p) {
    struct loop *l = p->owner < 0 ? NULL : &p->loops[p->owner];
    int64_t store;

    hear(p);
    if (l == NULL || !l->active) { /* what is in the card is played to its end */
        if (!p->running || hs_pcm_waiting(p->card) <= 0)
            quiet(p);
        return;
    }
    store = p->running ? hs_pcm_waiting(p->card) : -EPIPE;
    if (store < 0) {
        p->stats.underruns++;
        p->running = false;
        begin(p, l);
        return;
    }
    if (store > 3 * (int64_t)p->fill)
        shorten(p, l, 0);
    copy(p, l);
    steer(p, l, store);
}

/* Whether the OS of a loop plays (aloop.c, loopback_active_get). */
static bool plays(const struct loop *l) {
    struct snd_ctl_elem_value value;

    element(&value, "PCM Slave Active");
    return ioctl(l->control, SNDRV_CTL_IOCTL_ELEM_READ, &value) == 0 &&
           value.value.integer.value[0];
}

static void look(struct hs_pump *p, struct loop *l) {
    struct snd_ctl_event events[EVENTS];
    bool now;

    (void)!read(l->control, events, sizeof(events)); /* what is left is found at the next tick */
    l->deaf = true;
    tick(p, true);
    now = plays(l);
    if (now == l->active)
        return;
    if (!now) {
        if (p->owner >= 0 && l == &p->loops[p->owner] && p->running)
            copy(p, l);
        hs_pcm_drop(l->capture);
        l->active = false;
        return;
    }
    hs_pcm_prepare(l->capture);
    l->active = hs_pcm_start(l->capture) == 0;
    if (l->active && p->owner >= 0 && l == &p->loops[p->owner])
        begin(p, l);
}

static void *loop(void *argument) {
    struct hs_pump *p = argument;
    struct epoll_event events[HS_PUMP_LOOPS + 2];
    bool stop = false;

    setpriority(PRIO_PROCESS, 0, NICE); /* of this thread; what cannot be is none */
    while (!stop) {
        int n = epoll_wait(p->epoll, events, HS_PUMP_LOOPS + 2, -1);

        pthread_mutex_lock(&p->lock);
        for (int i = 0; i < n; i++) {
            uint64_t what = events[i].data.u64, count;

            if (what == TICK) {
                if (read(p->timer, &count, sizeof(count)) > 0)
                    work(p);
            } else if (what != WAKE)
                look(p, &p->loops[what]);
        }
        stop = p->stop;
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

static int watch(struct hs_pump *p, int fd, uint64_t what, uint32_t how) {
    struct epoll_event event = {.events = EPOLLIN | how, .data.u64 = what};

    return epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int hs_pump_new(struct hs_pump **out, int card) {
    struct hs_pump *p = calloc(1, sizeof(*p));
    int ret;

    if (p == NULL)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    p->card = card;
    p->owner = -1;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    ret = -EMFILE;
    if (p->epoll < 0 || p->wake < 0 || p->timer < 0)
        goto out;
    ret = hs_pcm_choose(card, &p->form);
    if (ret == 0)
        ret = hs_pcm_set(card, &p->form, 0);
    if (ret < 0)
        goto out;
    p->fill = p->form.rate * HS_PUMP_FILL_MS / 1000;
    p->margin = p->form.rate * HS_PUMP_MARGIN_MS / 1000;
    ret = watch(p, p->wake, WAKE, 0);
    if (ret == 0)
        ret = watch(p, p->timer, TICK, 0);
    if (ret < 0)
        goto out;
    ret = hs_quiet_thread(&p->thread, loop, p);
    p->started = ret == 0;
out:
    if (ret < 0) {
        hs_pump_free(p);
        p = NULL;
    }
    *out = p;
    return ret;
}

void hs_pump_free(struct hs_pump *p) {
    uint64_t one = 1;

    if (p == NULL)
        return;
    if (p->started) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_mutex_unlock(&p->lock);
        (void)!write(p->wake, &one, sizeof(one));
        pthread_join(p->thread, NULL);
    }
    hs_pcm_drop(p->card);
    for (unsigned i = 0; i < p->n_loops; i++)
        hs_pcm_drop(p->loops[i].capture);
    if (p->epoll >= 0)
        close(p->epoll);
    if (p->wake >= 0)
        close(p->wake);
    if (p->timer >= 0)
        close(p->timer);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int hs_pump_add(struct hs_pump *p, int capture, int control) {
    int on = 1, ret;

    pthread_mutex_lock(&p->lock);
    ret = -ENOSPC;
    if (p->n_loops < HS_PUMP_LOOPS) {
        struct hs_pcm_form form = p->form;
        struct loop *l = &p->loops[p->n_loops];

        *l = (struct loop){.capture = capture, .control = control, .clock = EVEN};
        ret = hs_pcm_set(capture, &form, 1);
        if (ret == 0 && ioctl(control, SNDRV_CTL_IOCTL_SUBSCRIBE_EVENTS, &on) < 0)
            ret = -errno;
        if (ret == 0)
            ret = watch(p, control, p->n_loops, EPOLLONESHOT);
        if (ret == 0)
            ret = (int)p->n_loops++;
    }
    pthread_mutex_unlock(&p->lock);
    return ret;
}

int hs_pump_rate(const struct hs_pump *p) {
    return (int)p->form.rate;
}

int hs_pump_release(struct hs_pump *p) {
    pthread_mutex_lock(&p->lock);
    if (p->owner >= 0 && p->running) {
        int64_t store = hs_pcm_waiting(p->card);

        if (store > p->margin) {
            store = hs_pcm_unwrite(p->card, (uint32_t)(store - p->margin));
            if (store > 0)
                p->stats.taken += (uint64_t)store;
        }
    }
    p->owner = -1;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

int hs_pump_take(struct hs_pump *p, int loop) {
    int ret = 0;

    pthread_mutex_lock(&p->lock);
    if (loop < 0 || loop >= (int)p->n_loops)
        ret = -ENOENT;
    else if (p->owner >= 0 && p->owner != loop)
        ret = -EBUSY;
    else if (p->owner < 0) {
        p->owner = loop;
        if (p->loops[loop].active)
            begin(p, &p->loops[loop]);
    }
    pthread_mutex_unlock(&p->lock);
    return ret;
}

int hs_pump_stats(struct hs_pump *p, struct hs_pump_stats *out) {
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    pthread_mutex_unlock(&p->lock);
    return 0;
}
