// SPDX-License-Identifier: Apache-2.0
/* See vm/spawn.h. This file: the new process is made, and waited for; what it does until it
 * executes is in vm/child.c. */
#define _GNU_SOURCE
#include "vm/spawn.h"
#include "vm/child.h"
#include "vm/fence.h"
#include "vm/filter.h"
#include "vm/lower.h"
#include "vm/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the machine's user namespace owns of a VM, and what the VM's own fence owns. Processes enter
 * the fence last: until then they have the machine's capabilities. */
#define OUTER (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS)
#define INNER (CLONE_NEWNET | CLONE_NEWIPC)
#define STACK_SIZE (64 * 1024)
#define START_DEADLINE 2 /* seconds from clone to exec in a VM; 2 ms is usual */
#define VM_DEADLINE 30   /* the same for a VM itself: nobody is in it yet who could stop it */

int hs_spawn_copies;

/* clone3 whose child calls hs_child_main(child), which does not return. */
static long clone_child(struct clone_args *args, struct hs_child *child) {
    long ret;
#if defined(__x86_64__)
    char stack[STACK_SIZE] __attribute__((aligned(16)));

    if (!hs_spawn_copies) {
        args->flags |= CLONE_VM;
        args->stack = (uint64_t)(uintptr_t)stack;
        args->stack_size = sizeof(stack);
        __asm__ volatile("syscall\n\t"
                         "test %%rax, %%rax\n\t"
                         "jnz 1f\n\t"
                         "mov %[child], %%rdi\n\t"
                         "call *%[entry]\n\t"
                         "ud2\n"
                         "1:"
                         : "=a"(ret)
                         : "a"((long)SYS_clone3), "D"(args),
                           "S"(sizeof(*args)), [child] "r"(child), [entry] "r"(hs_child_main)
                         : "rcx", "r11", "memory", "cc");
        return ret;
    }
#endif
    ret = syscall(SYS_clone3, args, sizeof(*args));
    if (ret == 0)
        hs_child_main(child);
    return ret < 0 ? -errno : ret;
}

/* Make the process and wait until it has executed. Signals are blocked: none may run a handler of
 * the caller's in the child. */
static int spawn(uint64_t flags, int cgroup_fd, struct hs_child *child, struct hs_spawned *out) {
    struct clone_args args = {
        .flags = flags | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&out->pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)cgroup_fd,
    };
    long pid;

    child->step = HS_STEP_CLONE;
    child->error = 0;
    pid = clone_child(&args, child);
    out->step = child->step;
    if (pid < 0)
        return (int)pid;
    out->pid = (int)pid;
    return child->error;
}

struct job {
    struct hs_child *child;
    struct hs_spawned *out;
    int ret;
};

/* Where the child comes from: the VM's namespaces, or, for a new VM, the base. */
static void *enter_and_spawn(void *arg) {
    struct job *job = arg;
    const struct hs_vm_spec *vm = job->child->vm;
    const struct hs_exec_spec *exec = job->child->exec;
    int ret;

    job->out->step = HS_STEP_NAMESPACES;
    ret = unshare(CLONE_FS);
    if (ret == 0)
        ret = vm ? setns(vm->base_fd, CLONE_NEWNS) : setns(exec->pidfd, OUTER | INNER);
    if (ret < 0)
        job->ret = -errno;
    else
        job->ret =
            spawn(vm ? OUTER : 0, vm ? vm->cgroup_fd : exec->cgroup_fd, job->child, job->out);
    return NULL;
}

static unsigned filter_kind(const struct hs_child *child) {
    const int nests = child->vm ? child->vm->nests : child->exec->nests;

    return (child->vm && child->vm->boot ? HS_FILTER_BOOT : HS_FILTER_PLAIN) |
           (nests ? HS_FILTER_NESTING : HS_FILTER_PLAIN);
}

static int run(const struct hs_child *what, int stay, struct hs_spawned *out) {
    const struct sock_fprog *filter;
    struct hs_child *child;
    sigset_t all, before;
    struct job job;
    int ret;

    *out = (struct hs_spawned){.pid = -1, .pidfd = -1, .step = HS_STEP_FILTER};
    ret = hs_filter(filter_kind(what), &filter);
    if (ret < 0)
        return ret;
    child = mmap(NULL, sizeof(*child), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (child == MAP_FAILED)
        return -errno;
    *child = *what;
    child->filter = filter;
    job = (struct job){.child = child, .out = out};
    if (stay) {
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        enter_and_spawn(&job);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        ret = job.ret;
    } else {
        out->step = HS_STEP_THREAD;
        ret = hs_in_thread(enter_and_spawn, &job, what->vm ? VM_DEADLINE : START_DEADLINE,
                           &out->pidfd);
        if (ret == 0 || job.ret < 0)
            ret = job.ret;
    }
    if (ret < 0 && out->pidfd >= 0) { /* it has ended, or is about to */
        waitid(P_PIDFD, (id_t)out->pidfd, &(siginfo_t){0}, WEXITED | __WALL);
        close(out->pidfd);
        out->pid = out->pidfd = -1;
    }
    munmap(child, sizeof(*child));
    return ret;
}

struct fencing {
    struct hs_fence *fence;
    uint32_t base;
    int ret;
};

static void *make_fence(void *arg) {
    struct fencing *fencing = arg;

    fencing->ret = hs_fence_make(fencing->fence, fencing->base);
    return NULL;
}

static int fence(const struct hs_vm_spec *spec, struct hs_fence *made) {
    struct fencing fencing = {.fence = made, .base = spec->owner};
    int ret = 0;

    *made = (struct hs_fence){-1, -1, -1};
    if (spec->owner)
        ret = hs_in_thread(make_fence, &fencing, 0, NULL);
    else
        make_fence(&fencing);
    return ret < 0 ? ret : fencing.ret;
}

/* Have what the root is made of show its owners as the VM's. A share whose file system cannot do
 * that shows them as nobody's. */
static int map_owners(const struct hs_own *own, int user_fd) {
    int ret = hs_lower_map(own->lower_fd, user_fd);

    if (ret == 0 && own->keep_fd >= 0)
        ret = hs_lower_map(own->keep_fd, user_fd);
    for (size_t i = 0; ret == 0 && own->shares[i]; i++) {
        ret = hs_lower_map(own->share_fds[i], user_fd);
        if (ret == -EINVAL)
            ret = 0;
    }
    return ret;
}

int hs_spawn_prepare(void) {
    const struct sock_fprog *filter;

    return hs_filter(HS_FILTER_PLAIN, &filter);
}

int hs_vm_spawn(const struct hs_vm_spec *spec, struct hs_spawned *out) {
    struct hs_child child = {.vm = spec};
    int ret;

    *out = (struct hs_spawned){.pid = -1, .pidfd = -1, .step = HS_STEP_FENCE};
    ret = fence(spec, &child.fence);
    if (ret == 0 && spec->own && spec->owner) {
        out->step = HS_STEP_OWNER;
        ret = map_owners(spec->own, child.fence.user_fd);
    }
    if (ret == 0)
        ret = run(&child, 0, out);
    hs_fence_close(&child.fence);
    return ret;
}

int hs_vm_exec(const struct hs_exec_spec *spec, struct hs_spawned *out) {
    return run(&(struct hs_child){.exec = spec}, spec->die_with_caller, out);
}

int hs_terminal(const char *ptmx, int *slave) {
    const int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    int master, ret;

    master = open(ptmx, flags | O_NOFOLLOW);
    if (master < 0)
        return -errno;
    if (unlockpt(master) < 0) {
        ret = -errno;
        goto out;
    }
    /* Not by its name, which means another terminal in our mount namespace (5.0). */
    *slave = ioctl(master, TIOCGPTPEER, flags);
    if (*slave < 0) {
        ret = -errno;
        goto out;
    }
    return master;
out:
    close(master);
    return ret;
}
