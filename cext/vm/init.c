// SPDX-License-Identifier: Apache-2.0
/* hostsim-init: process 1 of a VM. It adopts and reaps what the VM's programs leave behind, ends
 * everything on SIGTERM, and costs nothing in between: it sleeps in sigwaitinfo(2), allocates no
 * memory, and holds no file but /dev/null and, as its standard input, the daemon's pipe that tells
 * of its end. When it ends, the kernel kills the rest of the VM (pid_namespaces(7)). It takes no
 * arguments. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(void) {
    int saved = errno;

    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        ;
    errno = saved;
}

int main(void) {
    sigset_t all;

    if (getpid() != 1)
        return 2; /* somewhere else, SIGTERM would kill what is not ours */
    prctl(PR_SET_NAME, "hostsim-init");
    sigfillset(&all);
    if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
        return 1;
    for (;;) {
        siginfo_t info = {0};

        /* What exited before the mask was set left its SIGCHLD pending or none at all. */
        reap();
        if (sigwaitinfo(&all, &info) < 0 && errno != EINTR)
            return 1;
        if (info.si_signo == SIGTERM) {
            kill(-1, SIGKILL);
            return 0;
        }
    }
}
