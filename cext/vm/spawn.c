// SPDX-License-Identifier: Apache-2.0
/* See vm/spawn.h. This file: the steps of a new process between clone and exec, and the wait for
 * it. */
#define _GNU_SOURCE
#include "vm/spawn.h"
#include "vm/confine.h"
#include "vm/fence.h"
#include "vm/filter.h"
#include "vm/lower.h"
#include "vm/root.h"
#include "vm/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the machine's user namespace owns of a VM, and what the VM's own fence owns. Processes enter
 * the fence last: until then they have the machine's capabilities. */
#define OUTER (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS)
#define INNER (CLONE_NEWNET | CLONE_NEWIPC)
#define STACK_SIZE (64 * 1024)
#define START_DEADLINE 2 /* seconds from clone to exec in a VM; 2 ms is usual */
#define VM_DEADLINE 30   /* the same for a VM itself: nobody is in it yet who could stop it */

enum step {
    STEP_NONE,
    STEP_THREAD,
    STEP_NAMESPACES,
    STEP_FENCE,
    STEP_FILTER,
    STEP_CLONE,
    STEP_CGROUP,
    STEP_HOSTNAME,
    STEP_OWNER,
    STEP_ROOT,
    STEP_RUN,
    STEP_DEV,
    STEP_PROC,
    STEP_SYS,
    STEP_MASK,
    STEP_BOOT,
    STEP_ENTER,
    STEP_CONFINE,
    STEP_STDIO,
    STEP_TTY,
    STEP_EXEC,
    STEPS
};

static const char *const step_names[STEPS] = {
    [STEP_NONE] = "nothing",
    [STEP_THREAD] = "starting a thread",
    [STEP_NAMESPACES] = "joining the namespaces",
    [STEP_FILTER] = "making the system call filter",
    [STEP_FENCE] = "making the user namespace",
    [STEP_CLONE] = "making the process",
    [STEP_CGROUP] = "joining the cgroups",
    [STEP_HOSTNAME] = "setting the host name",
    [STEP_OWNER] = "mapping the owners of its files",
    [STEP_ROOT] = "mounting the root",
    [STEP_RUN] = "mounting /run",
    [STEP_DEV] = "making /dev",
    [STEP_PROC] = "mounting /proc",
    [STEP_SYS] = "mounting /sys",
    [STEP_MASK] = "masking /proc and /sys",
    [STEP_BOOT] = "making what its init needs",
    [STEP_ENTER] = "entering the user namespace",
    [STEP_CONFINE] = "dropping capabilities and installing the filter",
    [STEP_STDIO] = "setting up standard input and output",
    [STEP_TTY] = "taking the terminal",
    [STEP_EXEC] = "exec",
};

/* The child and its caller share this, in memory that stays shared where the rest is copied; the
 * caller sleeps until the child has executed or ended. */
struct child {
    const struct hs_vm_spec *vm; /* one of these two */
    const struct hs_exec_spec *exec;
    struct hs_fence fence; /* of a VM to be started */
    const struct sock_fprog *filter;
    int step;
    int error; /* negative errno */
};

static int join_cgroups(const int *join, size_t joins) {
    for (size_t i = 0; i < joins; i++)
        if (write(join[i], "0", 1) != 1)
            return -errno;
    return 0;
}

/* Make fds[0..2] the descriptors 0..2, and let exec close all others. */
static int set_stdio(const int *fds) {
    int high[3];

    for (int i = 0; i < 3; i++) { /* out of the way first: fds may hold 0..2 in any order */
        high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        if (high[i] < 0)
            return -errno;
    }
    for (int i = 0; i < 3; i++)
        if (dup2(high[i], i) < 0)
            return -errno;
    return syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ? -errno : 0;
}

/* Signals as a fresh program expects them: nothing ignored, nothing blocked. clone3 has already
 * taken the caller's handlers away.
 *
 * blocked: all wait, for a process 1 that takes them by sigwaitinfo(2) (vm/init.c). Else one that
 * comes from inside before that is lost (pid_namespaces(7)). */
static void reset_signals(int blocked) {
    struct sigaction def = {.sa_handler = SIG_DFL};
    sigset_t mask;

    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &def, NULL); /* fails for what cannot be caught: nothing to reset there */
    if (blocked)
        sigfillset(&mask);
    else
        sigemptyset(&mask);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* The caller may have raised its soft limit for itself; select(2) users break above 1024. */
static void reset_files_limit(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 1024) {
        limit.rlim_cur = 1024;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The filter ends process 1 of an OS that reboots by a signal that dumps core. The soft limit of 1
 * is the one that no way of dumping passes, not even into a program (core(5)); systemd has a limit
 * of its own for what it starts. */
static void no_core(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max > 1) {
        limit.rlim_cur = 1;
        setrlimit(RLIMIT_CORE, &limit);
    }
}

#define STEP(number, expression)                                                                   \
    do {                                                                                           \
        child->step = (number);                                                                    \
        ret = (expression);                                                                        \
        if (ret < 0)                                                                               \
            goto out;                                                                              \
    } while (0)
#define CALL(expression) ((expression) < 0 ? -errno : 0)

/* What is made from here on belongs to the VM's user 0: the mounts' roots, directories, nodes. The
 * thread keeps its capabilities; entering the user namespace resets all of it. */
static int own_files(uint32_t owner) {
    if (!owner)
        return 0;
    if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
        return -errno;
    syscall(SYS_setfsgid, owner);
    syscall(SYS_setfsuid, owner);
    return 0;
}

/* User 0 of the user namespace we have entered, if that is not who we are anyhow. By system calls:
 * libc would have all threads of our caller do so. */
static int become_root(void) {
    if (syscall(SYS_getuid) == 0)
        return 0;
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 ||
        syscall(SYS_setresuid, 0, 0, 0) < 0)
        return -errno;
    return 0;
}

static int prepare_boot(const struct hs_boot *boot) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = HS_BOOT_NOTIFY};
    int ret = hs_root_boot(boot->tmp, boot->lock, boot->console_tree);

    if (ret == 0 && bind(boot->notify_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        ret = -errno;
    return ret;
}

static int start_vm(struct child *child) {
    static char *const argv[] = {(char *)"hostsim-init", NULL};
    static char *const env[] = {NULL};
    const struct hs_vm_spec *spec = child->vm;
    const struct hs_boot *boot = spec->boot;
    int ret, init, user, null;

    umask(0);
    STEP(STEP_CGROUP, join_cgroups(spec->join, spec->joins));
    STEP(STEP_NAMESPACES, CALL(setns(child->fence.net_fd, CLONE_NEWNET)));
    STEP(STEP_NAMESPACES, CALL(setns(child->fence.ipc_fd, CLONE_NEWIPC)));
    if (boot)
        STEP(STEP_NAMESPACES, CALL(unshare(CLONE_NEWCGROUP)));
    STEP(STEP_HOSTNAME, CALL(sethostname(spec->hostname, strlen(spec->hostname))));
    STEP(STEP_OWNER, own_files(spec->owner));
    if (spec->root)
        STEP(STEP_ROOT, hs_root_make(spec->root));
    if (spec->nests)
        STEP(STEP_PROC, hs_root_plain_proc());
    if (spec->own)
        STEP(STEP_ROOT, hs_root_own(spec->own));
    STEP(STEP_RUN, hs_root_run(spec->run));
    STEP(STEP_DEV, hs_root_dev(spec->shm, spec->pts));
    STEP(STEP_PROC, hs_root_proc(spec->sealed));
    STEP(STEP_SYS, hs_root_sys());
    STEP(STEP_MASK, hs_root_mask(spec->masked));
    if (boot)
        STEP(STEP_BOOT, prepare_boot(boot));
    umask(022);
    setsid();
    STEP(STEP_STDIO, CALL(init = fcntl(spec->init_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(STEP_STDIO, CALL(user = fcntl(child->fence.user_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(STEP_STDIO, CALL(null = open("/dev/null", O_RDWR | O_CLOEXEC)));
    if (boot) {
        const int console = boot->console_fd;
        STEP(STEP_STDIO, set_stdio((const int[]){console, console, console}));
    } else {
        STEP(STEP_STDIO, set_stdio((const int[]){spec->life_fd, null, null}));
    }
    STEP(STEP_STDIO, CALL(chdir("/")));
    reset_files_limit();
    if (boot)
        no_core();
    STEP(STEP_ENTER, CALL(setns(user, CLONE_NEWUSER)));
    STEP(STEP_ENTER, become_root());
    STEP(STEP_CONFINE, hs_confine(child->filter));
    reset_signals(!boot);
    if (boot)
        STEP(STEP_EXEC, CALL(execve(boot->argv[0], boot->argv, boot->env)));
    STEP(STEP_EXEC, CALL(syscall(SYS_execveat, init, "", argv, env, AT_EMPTY_PATH)));
out:
    return ret;
}

static int start_program(struct child *child) {
    const struct hs_exec_spec *spec = child->exec;
    int ret, vm, program = -1;

    umask(022);
    STEP(STEP_CGROUP, join_cgroups(spec->join, spec->joins));
    setsid();
    STEP(STEP_STDIO, CALL(vm = fcntl(spec->pidfd, F_DUPFD_CLOEXEC, 3)));
    if (spec->program_fd >= 0)
        STEP(STEP_STDIO, CALL(program = fcntl(spec->program_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(STEP_STDIO, set_stdio(spec->fds));
    if (spec->tty)
        STEP(STEP_TTY, CALL(ioctl(0, TIOCSCTTY, 0)));
    if (!spec->cwd || chdir(spec->cwd) < 0)
        STEP(STEP_STDIO, CALL(chdir("/")));
    reset_files_limit();
    STEP(STEP_ENTER, CALL(setns(vm, CLONE_NEWUSER)));
    STEP(STEP_ENTER, become_root());
    STEP(STEP_CONFINE, hs_confine(child->filter));
    if (spec->die_with_caller) /* setns and the like clear it */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    reset_signals(0);
    if (program >= 0)
        STEP(STEP_EXEC,
             CALL(syscall(SYS_execveat, program, "", spec->argv, spec->env, AT_EMPTY_PATH)));
    child->step = STEP_EXEC;
    ret = -ENOENT;
    for (const char *const *path = spec->paths; *path; path++) {
        execve(*path, spec->argv, spec->env);
        if (errno == ENOENT || errno == ENOTDIR)
            continue;
        ret = -errno;
        if (errno != EACCES) /* as execvp(3): one that may not be executed hides no later one */
            break;
    }
out:
    return ret;
}

static void child_main(void *arg) {
    struct child *child = arg;

    child->error = child->vm ? start_vm(child) : start_program(child);
    _exit(127);
}

int hs_spawn_copies;

/* clone3 whose child calls child_main(child), which does not return. */
static long clone_child(struct clone_args *args, struct child *child) {
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
                           "S"(sizeof(*args)), [child] "r"(child), [entry] "r"(child_main)
                         : "rcx", "r11", "memory", "cc");
        return ret;
    }
#endif
    ret = syscall(SYS_clone3, args, sizeof(*args));
    if (ret == 0)
        child_main(child);
    return ret < 0 ? -errno : ret;
}

/* Make the process and wait until it has executed. Signals are blocked: none may run a handler of
 * the caller's in the child. */
static int spawn(uint64_t flags, int cgroup_fd, struct child *child, struct hs_spawned *out) {
    struct clone_args args = {
        .flags = flags | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND,
        .pidfd = (uint64_t)(uintptr_t)&out->pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)cgroup_fd,
    };
    long pid;

    child->step = STEP_CLONE;
    child->error = 0;
    pid = clone_child(&args, child);
    out->step = child->step;
    if (pid < 0)
        return (int)pid;
    out->pid = (int)pid;
    return child->error;
}

struct job {
    struct child *child;
    struct hs_spawned *out;
    int ret;
};

/* Where the child comes from: the VM's namespaces, or, for a new VM, the base. */
static void *enter_and_spawn(void *arg) {
    struct job *job = arg;
    const struct hs_vm_spec *vm = job->child->vm;
    const struct hs_exec_spec *exec = job->child->exec;
    int ret;

    job->out->step = STEP_NAMESPACES;
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

static unsigned filter_kind(const struct child *child) {
    const int nests = child->vm ? child->vm->nests : child->exec->nests;

    return (child->vm && child->vm->boot ? HS_FILTER_BOOT : HS_FILTER_PLAIN) |
           (nests ? HS_FILTER_NESTING : HS_FILTER_PLAIN);
}

static int run(const struct child *what, int stay, struct hs_spawned *out) {
    const struct sock_fprog *filter;
    struct child *child;
    sigset_t all, before;
    struct job job;
    int ret;

    *out = (struct hs_spawned){.pid = -1, .pidfd = -1, .step = STEP_FILTER};
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
        out->step = STEP_THREAD;
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

int hs_vm_spawn(const struct hs_vm_spec *spec, struct hs_spawned *out) {
    struct child child = {.vm = spec};
    int ret;

    *out = (struct hs_spawned){.pid = -1, .pidfd = -1, .step = STEP_FENCE};
    ret = fence(spec, &child.fence);
    if (ret == 0 && spec->own && spec->owner) {
        out->step = STEP_OWNER;
        ret = map_owners(spec->own, child.fence.user_fd);
    }
    if (ret == 0)
        ret = run(&child, 0, out);
    hs_fence_close(&child.fence);
    return ret;
}

int hs_vm_exec(const struct hs_exec_spec *spec, struct hs_spawned *out) {
    return run(&(struct child){.exec = spec}, spec->die_with_caller, out);
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

const char *hs_spawn_step(int step) {
    return step >= 0 && step < STEPS ? step_names[step] : "an unknown step";
}
