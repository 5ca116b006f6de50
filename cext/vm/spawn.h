// SPDX-License-Identifier: Apache-2.0
/* VMs and the programs in them: processes in namespaces, a cgroup and capabilities of their own.
 *
 * clone3(2) with CLONE_INTO_CGROUP makes the process where it belongs, so that it never runs a
 * step outside its limits. Between clone and exec the child may share the caller's memory, and uses
 * nothing but system calls; it says which step failed through `struct hs_spawned`.
 *
 * What keeps a VM's root out of the machine:
 *  - a user namespace, which owns its network: see vm/fence.h;
 *  - files of its own: see vm/root.h;
 *  - capabilities and a system call filter: see vm/confine.h, vm/filter.h;
 *  - /proc is its own, and everything in it but the process directories and /proc/sys/net is
 *    read-only: most of those files ask for user 0, not for a capability (core_pattern, sysrq);
 *  - /sys is read-only and shows its own network namespace; the cgroup trees are not mounted;
 *  - what in /proc and /sys tells of the machine's memory, keys or firmware is empty. */
#ifndef HS_SPAWN_H
#define HS_SPAWN_H
#include "vm/root.h"

#include <stddef.h>

/* A VM whose process 1 is its root's own, by the container interface of systemd. */
struct hs_boot {
    char *const *argv; /* argv[0] is the program, a path in the root */
    char *const *env;
    int console_fd;   /* a terminal: files 0, 1 and 2 of process 1 */
    int console_tree; /* a detached mount of it, for /dev/console */
    int notify_fd;    /* a datagram socket, to be bound at HS_BOOT_NOTIFY before process 1 runs */
    const char *lock; /* mount data of the tmpfs on /run/lock */
};

#define HS_BOOT_NOTIFY "/run/hostsim/notify"

/* A VM to be started. Descriptors stay the caller's. */
struct hs_vm_spec {
    const char *hostname;
    int base_fd;     /* mount namespace to start from: hs_mount_base */
    int init_fd;     /* the program that becomes process 1, O_PATH */
    int cgroup_fd;   /* directory in the v2 tree */
    int life_fd;     /* becomes file 0 of process 1 and nobody else's: closed when that ends, before
                        it waits for the end of the others, which its pidfd tells */
    const int *join; /* files `tasks` of v1 hierarchies, open for writing */
    size_t joins;
    const char *const *sealed; /* paths below /proc that become read-only, NULL at the end */
    const char *const *masked; /* paths below /proc and /sys that become empty, NULL at the end */
    const char *run;           /* mount data of the tmpfs on /run and on /dev/shm: tmpfs(5) */
    const char *shm;
    const char *pts;            /* of the devpts */
    const struct hs_root *root; /* NULL: the machine's, or `own` */
    const struct hs_own *own;   /* NULL: no root of its own */
    const struct hs_boot *boot; /* NULL: process 1 is init_fd; then cgroup_fd is the group that it
                                   may divide, and life_fd is nobody's */
    uint32_t owner;             /* the VM's user 0, outside: see hs_fence_make */
    int nests; /* 1: with `own` and `owner`: HS_FILTER_NESTING, hs_root_plain_proc */
};

/* A program to be started in a VM. Descriptors stay the caller's. */
struct hs_exec_spec {
    int pidfd; /* of the VM's process 1 */
    int cgroup_fd;
    const int *join;
    size_t joins;
    int program_fd; /* O_PATH, of a program that is linked statically (hs_root_program); -1: paths
                     */
    const char *const
        *paths; /* where the program may be, in order of preference; NULL at the end */
    char *const *argv;
    char *const *env;
    const char *cwd;     /* NULL, or one that does not exist there: the root directory */
    int fds[3];          /* become 0, 1, 2 */
    int nests;           /* as of the VM */
    int tty;             /* 1: fds[0] is a terminal and becomes the controlling one */
    int die_with_caller; /* 1: SIGKILL for the program when the calling thread ends. The
                            calling thread is left in the VM's namespaces. */
};

/* What came of it. On failure, `step` is the number of the step (see hs_spawn_step). */
struct hs_spawned {
    int pid;   /* in the caller's PID namespace; the caller reaps it */
    int pidfd; /* the caller owns it */
    int step;
};

/* A mount namespace for VMs to start from: a private copy of the caller's, with nothing mounted on
 * /run, /dev, /proc and /sys, so that each VM copies little and unmounts nothing (which waits for
 * every CPU). It shows the machine's mounts as they are now. Returns its descriptor, the caller's,
 * or a negative errno. */
int hs_mount_base(void);

/* Make beforehand what the first start makes otherwise, in 10 ms: the system call filters. In any
 * thread. Returns 0 or a negative errno; the first start tells the same. */
int hs_spawn_prepare(void);

/* Start a VM. Returns 0 with process 1 running, or a negative errno with nothing left. */
int hs_vm_spawn(const struct hs_vm_spec *spec, struct hs_spawned *out);

/* Start a program in a VM, in a session of its own. Returns 0 once the program has been executed,
 * or a negative errno: ESRCH if the VM is gone, ENOENT or EACCES (step "exec") if the
 * program cannot be found or executed. */
int hs_vm_exec(const struct hs_exec_spec *spec, struct hs_spawned *out);

/* 1: the child gets a copy of the caller's memory, as from fork(2), instead of sharing it until it
 * executes, as from vfork(2): slower, but plain C. Always so but on x86-64. */
extern int hs_spawn_copies;

/* A new terminal of the devpts instance (pts(4)) that `ptmx` is the multiplexer of: returns the
 * master and writes the slave, both close-on-exec and the caller's, or returns a negative errno. */
int hs_terminal(const char *ptmx, int *slave);

/* What the step with this number does, for a message. */
const char *hs_spawn_step(int step);

#endif
