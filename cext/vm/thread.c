// SPDX-License-Identifier: Apache-2.0
/* See vm/thread.h. This file: the thread, and the wait for it. */
#define _GNU_SOURCE
#include "vm/thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Wait for the thread. A process of the VM may stop the child before it has executed (kill(2) asks
 * for the user id, and both are user 0): past the deadline the child is killed, which ends a
 * stopped one too, and with it the thread's wait. */
static int join(pthread_t thread, int seconds, const int *child) {
    struct timespec deadline;

    if (!child) {
        pthread_join(thread, NULL);
        return 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &deadline); /* somebody may set the other one */
    deadline.tv_sec += seconds;
    if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &deadline) == 0)
        return 0;
    /* Written by the kernel in clone3, which the child could not have run without. */
    int pidfd = __atomic_load_n(child, __ATOMIC_ACQUIRE);
    if (pidfd >= 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    pthread_join(thread, NULL);
    return pidfd >= 0 ? -ETIMEDOUT : 0;
}

int hs_in_thread(void *(*function)(void *), void *arg, int seconds, const int *pidfd) {
    sigset_t all, before;
    pthread_t thread;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    ret = -pthread_create(&thread, NULL, function, arg);
    if (ret == 0)
        ret = join(thread, seconds, pidfd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ret;
}
