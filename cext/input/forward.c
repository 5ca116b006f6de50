// SPDX-License-Identifier: Apache-2.0
/* The input forwarder: its threads, its lock, its table of devices; the contract is in
 * input/forward.h. */
#define _GNU_SOURCE
#include "input/forward.h"
#include "input/device.h"
#include "input/feedback.h"
#include "ns/quiet.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NOTICES 64 /* more than that many unread: the oldest fact is enough, newer are dropped */
#define WAKE UINT64_MAX
#define LOOK (UINT64_MAX - 1)
#define LOOK_MS 100 /* between two looks at devices that somebody else may have grabbed */
#define DEAF_MS 20  /* ... and that somebody has: nobody presses a hotkey for less */
#define NICE (-20)
#define THREADS 2

struct hs_fwd {
    struct hs_device_set set; /* first: a set is its forwarder */
    pthread_t thread[THREADS];
    unsigned threads;
    pthread_mutex_t lock;
    int epoll, wake, notice_fd, timer;
    bool stop;
    uint32_t generation[HS_FWD_DEVICES]; /* so that a late epoll event hits no newer device */
    struct hs_fwd_notice notices[NOTICES];
    unsigned n_notices;
};

static uint64_t tag(unsigned device, unsigned os, uint32_t generation) {
    return (uint64_t)generation << 32 | os << 16 | device;
}
#define REAL 0xffff /* in place of an OS in a tag */

static void notice(struct hs_device_set *set, uint32_t type, int32_t device) {
    struct hs_fwd *f = (struct hs_fwd *)set;
    uint64_t one = 1;

    if (f->n_notices == NOTICES)
        return;
    f->notices[f->n_notices++] = (struct hs_fwd_notice){.type = type, .device = device};
    (void)!write(f->notice_fd, &one, sizeof(one)); /* a full counter is readable all the same */
}

static void unwatch(struct hs_fwd *f, struct hs_device *d) {
    epoll_ctl(f->epoll, EPOLL_CTL_DEL, d->real, NULL);
    for (unsigned os = 0; !d->watched && os < f->set.oses; os++)
        if (d->clones[os] >= 0)
            epoll_ctl(f->epoll, EPOLL_CTL_DEL, d->clones[os], NULL);
}

/* op: EPOLL_CTL_ADD; or EPOLL_CTL_MOD, which tells again of what is still there. */
static int watch(struct hs_fwd *f, int op, int fd, uint64_t data) {
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = data};

    return epoll_ctl(f->epoll, op, fd, &ev) < 0 ? -errno : 0;
}

/* How often watched devices with a hotkey are looked at: see hs_device_look. */
static void set_timer(struct hs_fwd *f) {
    struct itimerspec each = {0};
    long ms = 0;

    for (unsigned i = 0; i < HS_FWD_DEVICES; i++) {
        const struct hs_device *d = f->set.device[i];

        if (d && d->watched && d->chord && !d->gone && ms != DEAF_MS)
            ms = d->deaf ? DEAF_MS : LOOK_MS;
    }
    each.it_value.tv_nsec = each.it_interval.tv_nsec = ms * 1000000;
    timerfd_settime(f->timer, 0, &each, NULL);
}

static void look(struct hs_fwd *f) {
    uint64_t expired;

    if (read(f->timer, &expired, sizeof(expired)) < 0)
        return; /* the other thread has done it */
    for (unsigned i = 0; i < HS_FWD_DEVICES; i++) {
        struct hs_device *d = f->set.device[i];

        if (d && d->watched && d->chord && !d->gone)
            hs_device_look(d);
    }
    set_timer(f);
}

static void ready(struct hs_fwd *f, uint64_t data) {
    unsigned index = data & 0xffff, os = data >> 16 & 0xffff;
    struct hs_device *d = f->set.device[index];
    int ret;

    if (!d || d->gone || f->generation[index] != data >> 32)
        return;
    if (os != REAL && d->clones[os] < 0)
        return; /* its OS has left */
    ret = os == REAL ? hs_device_read(d) : hs_feedback_read(d, (int)os);
    if (ret > 0)
        watch(f, EPOLL_CTL_MOD, os == REAL ? d->real : d->clones[os], data);
    if (ret != -ENODEV)
        return;
    if (os == REAL) {
        d->gone = true;
        if (d->chord)
            hs_chord_gone(d->chord, index);
        unwatch(f, d);
        notice(&f->set, HS_FWD_GONE, (int32_t)index);
    } else
        epoll_ctl(f->epoll, EPOLL_CTL_DEL, d->clones[os], NULL);
}

/* An event is to go on as soon as it is there, whatever else the machine does, and a thread does
 * little at a time. Not real-time: such a thread waits for the processor it was last on. Without
 * the right to it (CAP_SYS_NICE) it is a thread like others.
 *
 * There are two: a thread that has been woken may still wait for its processor, for longer than
 * the kernel's buffer of a fast mouse lasts. The next event then wakes the other one, on another
 * processor. Each event wakes one of them (EPOLLET). */
static void *run(void *arg) {
    struct hs_fwd *f = arg;
    struct epoll_event events[32];
    bool stop = false;
    int n;

    setpriority(PRIO_PROCESS, 0, NICE); /* of this thread alone, in Linux */
    while (!stop) {
        n = epoll_wait(f->epoll, events, 32, -1);
        if (n < 0 && errno != EINTR)
            break;
        for (int i = 0; i < n; i++) {
            pthread_mutex_lock(&f->lock);
            if (events[i].data.u64 == LOOK)
                look(f);
            else if (events[i].data.u64 != WAKE)
                ready(f, events[i].data.u64);
            stop = f->stop;
            pthread_mutex_unlock(&f->lock);
        }
    }
    return NULL;
}

/* One that has no threads, or no more. */
static void end(struct hs_fwd *f) {
    close(f->epoll);
    close(f->wake);
    close(f->notice_fd);
    close(f->timer);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int hs_fwd_new(struct hs_fwd **out, unsigned oses) {
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE}; /* for every thread */
    struct hs_fwd *f;
    int ret;

    if (oses == 0 || oses > HS_FWD_OSES)
        return -EINVAL;
    f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->set.oses = oses;
    f->set.notice = notice;
    pthread_mutex_init(&f->lock, NULL);
    f->epoll = epoll_create1(EPOLL_CLOEXEC);
    f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->notice_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (f->epoll < 0 || f->wake < 0 || f->notice_fd < 0 || f->timer < 0 ||
        epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->wake, &wake) < 0 ||
        watch(f, EPOLL_CTL_ADD, f->timer, LOOK) < 0) {
        ret = -errno;
        goto out;
    }
    do
        ret = hs_quiet_thread(&f->thread[f->threads], run, f);
    while (ret == 0 && ++f->threads < THREADS);
    if (f->threads > 0) { /* one does, if there is no second */
        *out = f;
        return 0;
    }
out:
    end(f);
    return ret;
}

static void forget(struct hs_fwd *f, unsigned index) {
    struct hs_device *d = f->set.device[index];

    if (!d->gone)
        unwatch(f, d);
    hs_device_fini(d);
    f->set.device[index] = NULL;
    f->generation[index]++;
    free(d);
}

void hs_fwd_free(struct hs_fwd *f) {
    uint64_t one = 1;

    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < HS_FWD_DEVICES; i++)
        if (f->set.device[i])
            forget(f, i);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    (void)!write(f->wake, &one, sizeof(one));
    while (f->threads > 0)
        pthread_join(f->thread[--f->threads], NULL);
    end(f);
}

int hs_fwd_fileno(const struct hs_fwd *f) {
    return f->notice_fd;
}

int hs_fwd_notice(struct hs_fwd *f, struct hs_fwd_notice *out) {
    uint64_t count;
    int ret = 0;

    pthread_mutex_lock(&f->lock);
    if (f->n_notices > 0) {
        *out = f->notices[0];
        memmove(f->notices, f->notices + 1, --f->n_notices * sizeof(*f->notices));
        ret = 1;
    }
    if (f->n_notices == 0)
        (void)!read(f->notice_fd, &count, sizeof(count));
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_add(struct hs_fwd *f, int real, const int *clones) {
    struct hs_device *d;
    unsigned index = 0;
    int ret;

    d = malloc(sizeof(*d));
    if (!d)
        return -ENOMEM;
    pthread_mutex_lock(&f->lock);
    while (index < HS_FWD_DEVICES && f->set.device[index])
        index++;
    if (index == HS_FWD_DEVICES) {
        ret = -ENOSPC;
        goto out;
    }
    hs_device_init(d, &f->set, (int)index, real, clones);
    ret = watch(f, EPOLL_CTL_ADD, real, tag(index, REAL, f->generation[index]));
    for (unsigned os = 0; clones && ret == 0 && os < f->set.oses; os++)
        if (clones[os] >= 0)
            ret = watch(f, EPOLL_CTL_ADD, clones[os], tag(index, os, f->generation[index]));
    if (ret < 0) {
        unwatch(f, d);
        goto out;
    }
    f->set.device[index] = d;
    d = NULL;
    ret = (int)index;
out:
    pthread_mutex_unlock(&f->lock);
    free(d);
    return ret;
}

static struct hs_device *find(struct hs_fwd *f, int device) {
    return device >= 0 && device < HS_FWD_DEVICES ? f->set.device[device] : NULL;
}

int hs_fwd_join(struct hs_fwd *f, int device, int os, int clone) {
    struct hs_device *d;
    int ret = -ENOENT;

    if (os < 0 || (unsigned)os >= f->set.oses || clone < 0)
        return -EINVAL;
    pthread_mutex_lock(&f->lock);
    d = find(f, device);
    if (!d)
        goto out;
    ret = d->watched ? -EINVAL : d->clones[os] >= 0 ? -EEXIST : 0;
    if (ret == 0 && !d->gone)
        ret = watch(f, EPOLL_CTL_ADD, clone,
                    tag((unsigned)device, (unsigned)os, f->generation[device]));
    if (ret == 0)
        hs_device_join(d, os, clone);
out:
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_leave(struct hs_fwd *f, int device, int os) {
    struct hs_device *d;
    int ret = -ENOENT;

    if (os < 0 || (unsigned)os >= f->set.oses)
        return -EINVAL;
    pthread_mutex_lock(&f->lock);
    d = find(f, device);
    if (!d)
        goto out;
    ret = d->owner == os ? -EBUSY : 0;
    if (ret == 0 && !d->watched && d->clones[os] >= 0) {
        epoll_ctl(f->epoll, EPOLL_CTL_DEL, d->clones[os], NULL);
        hs_device_join(d, os, -1);
    }
out:
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_remove(struct hs_fwd *f, int device) {
    int ret = -ENOENT;

    pthread_mutex_lock(&f->lock);
    if (find(f, device)) {
        forget(f, (unsigned)device);
        ret = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_chord(struct hs_fwd *f, int device, const uint16_t *codes, unsigned n) {
    struct hs_device *d;
    int ret = -ENOENT;

    if (n > HS_FWD_CHORD)
        return -EINVAL;
    pthread_mutex_lock(&f->lock);
    d = find(f, device);
    if (d) {
        hs_device_chord(d, codes, n);
        set_timer(f);
        ret = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return ret;
}

void hs_fwd_carry(struct hs_fwd *f, int on) {
    pthread_mutex_lock(&f->lock);
    f->set.carry = on != 0;
    pthread_mutex_unlock(&f->lock);
}

int hs_fwd_release(struct hs_fwd *f, int device) {
    int ret = device == HS_FWD_ALL ? 0 : -ENOENT;

    pthread_mutex_lock(&f->lock);
    /* what came before the release counts, on every device, before anything is taken back */
    for (int i = 0; i < HS_FWD_DEVICES; i++)
        if (f->set.device[i] && (device == HS_FWD_ALL || device == i))
            hs_device_drain(f->set.device[i]);
    for (int i = 0; i < HS_FWD_DEVICES; i++)
        if (f->set.device[i] && (device == HS_FWD_ALL || device == i)) {
            hs_device_release(f->set.device[i]);
            ret = 0;
        }
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_take(struct hs_fwd *f, int device, int os) {
    int ret = device == HS_FWD_ALL ? 0 : -ENOENT;

    if (os < 0 || (unsigned)os >= f->set.oses)
        return -EINVAL;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < HS_FWD_DEVICES; i++) {
        struct hs_device *d = f->set.device[i];

        if (!d || d->watched || (device != HS_FWD_ALL && device != i))
            continue;
        if (d->owner >= 0 && d->owner != os) {
            ret = -EBUSY;
            break;
        }
        if (d->clones[os] < 0) {
            ret = -ENOENT;
            break;
        }
        if (d->owner < 0)
            hs_device_take(d, os);
        ret = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_stats(struct hs_fwd *f, int device, struct hs_fwd_stats *out) {
    struct hs_device *d;
    int ret = -ENOENT;

    pthread_mutex_lock(&f->lock);
    d = find(f, device);
    if (d) {
        *out = d->stats;
        ret = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return ret;
}

int hs_fwd_os_state(struct hs_fwd *f, int device, int os, uint32_t *leds, uint32_t *held) {
    struct hs_device *d;
    int ret = -ENOENT;

    if (os < 0 || (unsigned)os >= f->set.oses)
        return -EINVAL;
    pthread_mutex_lock(&f->lock);
    d = find(f, device);
    if (d) {
        *leds = d->leds[os];
        *held = 0;
        for (unsigned k = 0; k < KEY_CNT; k++)
            *held += hs_bit(d->down[os], k);
        ret = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return ret;
}
