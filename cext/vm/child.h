// SPDX-License-Identifier: Apache-2.0
/* A new process of a VM's between clone and exec: its steps, one after the other (vm/spawn.c makes
 * it, and waits for it). It uses nothing but system calls. */
#ifndef HS_CHILD_H
#define HS_CHILD_H
#include "vm/fence.h"
#include "vm/spawn.h"

#include <linux/filter.h>

enum hs_step {
    HS_STEP_NONE,
    HS_STEP_THREAD,
    HS_STEP_NAMESPACES,
    HS_STEP_FENCE,
    HS_STEP_FILTER,
    HS_STEP_CLONE,
    HS_STEP_CGROUP,
    HS_STEP_HOSTNAME,
    HS_STEP_OWNER,
    HS_STEP_ROOT,
    HS_STEP_RUN,
    HS_STEP_DEV,
    HS_STEP_PROC,
    HS_STEP_SYS,
    HS_STEP_MASK,
    HS_STEP_BOOT,
    HS_STEP_ENTER,
    HS_STEP_CONFINE,
    HS_STEP_STDIO,
    HS_STEP_TTY,
    HS_STEP_EXEC,
    HS_STEPS
};

enum { HS_FILES_MAX = 1 << 20 }; /* descriptors that a process in a VM may have, at most */

/* The child and its caller share this, in memory that stays shared where the rest is copied; the
 * caller sleeps until the child has executed or ended. */
struct hs_child {
    const struct hs_vm_spec *vm; /* one of these two */
    const struct hs_exec_spec *exec;
    struct hs_fence fence; /* of a VM to be started */
    const struct sock_fprog *filter;
    int step;
    int error; /* negative errno */
};

/* The process, of a `struct hs_child`: executes, or writes the error and ends. Does not return. */
void hs_child_main(void *child);

#endif
