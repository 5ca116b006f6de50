// SPDX-License-Identifier: Apache-2.0
/* See vm/child.h. This file: all of it; the names of the steps, and each in its turn. */
#define _GNU_SOURCE
#include "vm/child.h"
#include "vm/confine.h"
#include "vm/root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static const char *const step_names[HS_STEPS] = {
    [HS_STEP_NONE] = "nothing",
    [HS_STEP_THREAD] = "starting a thread",
    [HS_STEP_NAMESPACES] = "joining the namespaces",
    [HS_STEP_FILTER] = "making the system call filter",
    [HS_STEP_FENCE] = "making the user namespace",
    [HS_STEP_CLONE] = "making the process",
    [HS_STEP_CGROUP] = "joining the cgroups",
    [HS_STEP_HOSTNAME] = "setting the host name",
    [HS_STEP_OWNER] = "mapping the owners of its files",
    [HS_STEP_ROOT] = "mounting the root",
    [HS_STEP_RUN] = "mounting /run",
    [HS_STEP_DEV] = "making /dev",
    [HS_STEP_PROC] = "mounting /proc",
    [HS_STEP_SYS] = "mounting /sys",
    [HS_STEP_MASK] = "masking /proc and /sys",
    [HS_STEP_BOOT] = "making what its init needs",
    [HS_STEP_ENTER] = "entering the user namespace",
    [HS_STEP_CONFINE] = "dropping capabilities and installing the filter",
    [HS_STEP_STDIO] = "setting up standard input and output",
    [HS_STEP_TTY] = "taking the terminal",
    [HS_STEP_EXEC] = "exec",
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

/* The caller may have raised its limits for itself; select(2) users break above 1024. Who looks
 * through a process's descriptors (input/revoke.h) passes all that its table has room for: a
 * machine may allow a billion, and nothing in a VM may raise the limit again. */
static void reset_files_limit(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    if (limit.rlim_max > HS_FILES_MAX)
        limit.rlim_max = HS_FILES_MAX;
    if (limit.rlim_cur > 1024)
        limit.rlim_cur = 1024;
    setrlimit(RLIMIT_NOFILE, &limit);
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
    int ret = hs_root_boot(boot->lock, boot->console_tree);

    if (ret == 0 && bind(boot->notify_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        ret = -errno;
    return ret;
}

static int start_vm(struct hs_child *child) {
    static char *const argv[] = {(char *)"hostsim-init", NULL};
    static char *const env[] = {NULL};
    const struct hs_vm_spec *spec = child->vm;
    const struct hs_boot *boot = spec->boot;
    int ret, init, user, null;

    umask(0);
    STEP(HS_STEP_CGROUP, join_cgroups(spec->join, spec->joins));
    STEP(HS_STEP_NAMESPACES, CALL(setns(child->fence.net_fd, CLONE_NEWNET)));
    STEP(HS_STEP_NAMESPACES, CALL(setns(child->fence.ipc_fd, CLONE_NEWIPC)));
    if (boot)
        STEP(HS_STEP_NAMESPACES, CALL(unshare(CLONE_NEWCGROUP)));
    STEP(HS_STEP_HOSTNAME, CALL(sethostname(spec->hostname, strlen(spec->hostname))));
    STEP(HS_STEP_OWNER, own_files(spec->owner));
    if (spec->root)
        STEP(HS_STEP_ROOT, hs_root_make(spec->root));
    if (spec->nests)
        STEP(HS_STEP_PROC, hs_root_plain_proc());
    if (spec->own)
        STEP(HS_STEP_ROOT, hs_root_own(spec->own));
    STEP(HS_STEP_RUN, hs_root_run(spec->run));
    STEP(HS_STEP_DEV, hs_root_dev(spec->shm, spec->pts));
    STEP(HS_STEP_PROC, hs_root_proc(spec->sealed));
    STEP(HS_STEP_SYS, hs_root_sys());
    STEP(HS_STEP_MASK, hs_root_mask(spec->masked));
    if (boot)
        STEP(HS_STEP_BOOT, prepare_boot(boot));
    umask(022);
    setsid();
    STEP(HS_STEP_STDIO, CALL(init = fcntl(spec->init_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(HS_STEP_STDIO, CALL(user = fcntl(child->fence.user_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(HS_STEP_STDIO, CALL(null = open("/dev/null", O_RDWR | O_CLOEXEC)));
    if (boot) {
        const int console = boot->console_fd;
        STEP(HS_STEP_STDIO, set_stdio((const int[]){console, console, console}));
    } else {
        STEP(HS_STEP_STDIO, set_stdio((const int[]){spec->life_fd, null, null}));
    }
    STEP(HS_STEP_STDIO, CALL(chdir("/")));
    reset_files_limit();
    if (boot)
        no_core();
    STEP(HS_STEP_ENTER, CALL(setns(user, CLONE_NEWUSER)));
    STEP(HS_STEP_ENTER, become_root());
    STEP(HS_STEP_CONFINE, hs_confine(child->filter));
    reset_signals(!boot);
    if (boot)
        STEP(HS_STEP_EXEC, CALL(execve(boot->argv[0], boot->argv, boot->env)));
    STEP(HS_STEP_EXEC, CALL(syscall(SYS_execveat, init, "", argv, env, AT_EMPTY_PATH)));
out:
    return ret;
}

static int start_program(struct hs_child *child) {
    const struct hs_exec_spec *spec = child->exec;
    int ret, vm, program = -1;

    umask(022);
    STEP(HS_STEP_CGROUP, join_cgroups(spec->join, spec->joins));
    setsid();
    STEP(HS_STEP_STDIO, CALL(vm = fcntl(spec->pidfd, F_DUPFD_CLOEXEC, 3)));
    if (spec->program_fd >= 0)
        STEP(HS_STEP_STDIO, CALL(program = fcntl(spec->program_fd, F_DUPFD_CLOEXEC, 3)));
    STEP(HS_STEP_STDIO, set_stdio(spec->fds));
    if (spec->tty)
        STEP(HS_STEP_TTY, CALL(ioctl(0, TIOCSCTTY, 0)));
    if (!spec->cwd || chdir(spec->cwd) < 0)
        STEP(HS_STEP_STDIO, CALL(chdir("/")));
    reset_files_limit();
    STEP(HS_STEP_ENTER, CALL(setns(vm, CLONE_NEWUSER)));
    STEP(HS_STEP_ENTER, become_root());
    STEP(HS_STEP_CONFINE, hs_confine(child->filter));
    if (spec->die_with_caller) /* setns and the like clear it */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    reset_signals(0);
    if (program >= 0)
        STEP(HS_STEP_EXEC,
             CALL(syscall(SYS_execveat, program, "", spec->argv, spec->env, AT_EMPTY_PATH)));
    child->step = HS_STEP_EXEC;
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

void hs_child_main(void *arg) {
    struct hs_child *child = arg;

    child->error = child->vm ? start_vm(child) : start_program(child);
    _exit(127);
}

const char *hs_spawn_step(int step) {
    return step >= 0 && step < HS_STEPS ? step_names[step] : "an unknown step";
}
