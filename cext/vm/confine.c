// SPDX-License-Identifier: Apache-2.0
/* See vm/confine.h. This file: which capabilities a VM keeps. */
#define _GNU_SOURCE
#include "vm/confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a VM keeps. Everything else goes, what future kernels add too: SYS_ADMIN, SYS_MODULE,
 * SYS_RAWIO, SYS_TIME, SYS_BOOT, SYS_PTRACE (see vm/confine.h), DAC_READ_SEARCH (open_by_handle_at
 * reaches every file of a file system), MKNOD, BPF, PERFMON, SYSLOG, ... */
static const uint8_t kept[] = {
    CAP_CHOWN,         CAP_DAC_OVERRIDE, CAP_FOWNER,      CAP_FSETID,   CAP_KILL,
    CAP_SETGID,        CAP_SETUID,       CAP_SETPCAP,     CAP_SETFCAP,  CAP_NET_BIND_SERVICE,
    CAP_NET_BROADCAST, CAP_NET_ADMIN,    CAP_NET_RAW,     CAP_IPC_LOCK, CAP_IPC_OWNER,
    CAP_SYS_CHROOT,    CAP_LEASE,        CAP_AUDIT_WRITE,
};

/* With nothing inheritable or ambient, exec as user 0 gives what is in the bounding set. */
static int drop_capabilities(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    uint64_t keep = 0;

    for (size_t i = 0; i < sizeof(kept); i++)
        keep |= UINT64_C(1) << kept[i];
    for (int cap = 0; cap < 64; cap++) {
        if (keep >> cap & 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
            if (errno == EINVAL)
                break; /* the kernel knows no more */
            return -errno;
        }
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    data[0].inheritable = data[1].inheritable = 0;
    if (syscall(SYS_capset, &header, data) < 0)
        return -errno;
    return 0;
}

int hs_confine(const struct sock_fprog *filter) {
    /* By CAP_SYS_ADMIN, not by no_new_privs: sudo and ping stay what they are in the VM. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) < 0)
        return -errno;
    return drop_capabilities();
}
