// SPDX-License-Identifier: Apache-2.0
/* Starts a thread of ours to which no signal is delivered: signals are for the daemon's loop.
 * Inline, so that a source that needs it can be built alone. */
#ifndef HS_QUIET_H
#define HS_QUIET_H
#include <pthread.h>
#include <signal.h>

/* As pthread_create with default attributes. Returns 0 or a negative errno. */
static inline int hs_quiet_thread(pthread_t *thread, void *(*function)(void *), void *arg) {
    sigset_t all, before;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* a thread begins with its starter's mask */
    ret = -pthread_create(thread, NULL, function, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ret;
}

#endif
