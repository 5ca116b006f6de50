// SPDX-License-Identifier: Apache-2.0
/* See vm/filter.h. This file: the tables, and the program that libseccomp makes of them. */
#define _GNU_SOURCE
#include "vm/filter.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/falloc.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <linux/reboot.h>
#include <linux/uinput.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))
#define FAMILY_MAX 63 /* families above have no bit, and are refused */

/* Refused whatever the arguments. */
static const struct {
    const char *name;
    int error;
    const char *why;
} calls[] = {
    {"clone3", ENOSYS, "its flags are in memory, which no filter reads; libc then uses clone"},
    {"socketcall", ENOSYS, "so is its family (32-bit only; libc then uses socket)"},
    {"io_uring_setup", ENOSYS, "its requests are system calls that no filter sees"},
    {"io_uring_enter", ENOSYS, "the same"},
    {"io_uring_register", ENOSYS, "the same"},
    {"io_setup", ENOSYS, "a request keeps a device open without a descriptor: no revoke finds it"},
    {"io_submit", ENOSYS, "the same"},
    {"add_key", ENOSYS, "keyrings outlive the VM, and know users, not VMs"},
    {"request_key", ENOSYS, "the same; and the kernel starts a helper outside for it"},
    {"keyctl", ENOSYS, "the same; the session's keyring is the daemon's"},
    {"userfaultfd", EPERM, "stops a kernel thread in the middle of a copy; exploits want that"},
};

/* Refused if (argument & mask) == value. but: a bit of hs_filter_kind with which it is not. */
static const struct {
    const char *name;
    unsigned argument;
    uint64_t mask, value;
    int error;
    const char *why;
    unsigned but;
} flags[] = {
    {"clone", 0, CLONE_NEWUSER, CLONE_NEWUSER, EPERM,
     "root of a new one gets every capability back", HS_FILTER_NESTING},
    {"unshare", 0, CLONE_NEWUSER, CLONE_NEWUSER, EPERM, "the same", HS_FILTER_NESTING},
    {"clone", 0, CLONE_THREAD | CLONE_FILES, CLONE_THREAD, EPERM,
     "a thread with descriptors of its own: pidfd_getfd(2), and so a revoke, has only those of the "
     "first thread",
     0},
    {"unshare", 0, CLONE_FILES, CLONE_FILES, EPERM, "the same", 0},
    {"close_range", 2, CLOSE_RANGE_UNSHARE, CLOSE_RANGE_UNSHARE, EPERM, "the same", 0},
    {"fallocate", 1, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_PUNCH_HOLE, EOPNOTSUPP,
     "a hole in packet memory: a neighbour's socket goes on with the pages that were there", 0},
    {"madvise", 2, UINT32_MAX, MADV_REMOVE, EINVAL, "the same", 0},
    {"process_madvise", 3, UINT32_MAX, MADV_REMOVE, EINVAL, "the same", 0},
};

/* Keys and switches that the machine's own kernel obeys, whoever has the node: a device that a VM
 * makes (uinput(4)) goes without them, as if it had not asked. The kernel drops what a device does
 * not have. */
static const struct {
    unsigned request;
    unsigned code;
    const char *why;
} obeyed[] = {
    {UI_SET_KEYBIT, KEY_SYSRQ, "with Alt, sysrq.rst: it reboots the machine"},
    {UI_SET_KEYBIT, KEY_BLUETOOTH, "net/rfkill/input.c switches the machine's radios"},
    {UI_SET_KEYBIT, KEY_WLAN, "the same"},
    {UI_SET_KEYBIT, KEY_UWB, "the same"},
    {UI_SET_KEYBIT, KEY_WIMAX, "the same"},
    {UI_SET_KEYBIT, KEY_RFKILL, "the same"},
    {UI_SET_SWBIT, SW_RFKILL_ALL, "the same"},
};

/* DRM_IOCTL_MODE_GETFB and GETFB2 (drm/drm_mode.h): whoever is master gets a handle to any buffer
 * of the card by them, also to pictures of other OSes that are not shown. Of the request DRM looks
 * at the number alone (drm_ioctl). */
static const uint8_t others_pictures[] = {0xad, 0xce};

/* These take a family first. */
static const char *const families[] = {"socket", "socketpair"};

static int add_calls(scmp_filter_ctx context) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(calls); i++) {
        int number = seccomp_syscall_resolve_name(calls[i].name);

        if (number == __NR_SCMP_ERROR) /* newer than this libseccomp */
            return -ENOSYS;
        ret = seccomp_rule_add(context, SCMP_ACT_ERRNO(calls[i].error), number, 0);
    }
    return ret;
}

static int add_flags(scmp_filter_ctx context, unsigned kind) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(flags); i++) {
        struct scmp_arg_cmp compare =
            SCMP_CMP(flags[i].argument, SCMP_CMP_MASKED_EQ, flags[i].mask, flags[i].value);

        if (flags[i].but & kind)
            continue;
        ret = seccomp_rule_add_array(context, SCMP_ACT_ERRNO((uint32_t)flags[i].error),
                                     seccomp_syscall_resolve_name(flags[i].name), 1, &compare);
    }
    return ret;
}

/* The kernel reads the request as 32 bits, and the code as a whole word. */
static int add_obeyed(scmp_filter_ctx context) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(obeyed); i++) {
        struct scmp_arg_cmp compare[] = {
            SCMP_CMP(1, SCMP_CMP_MASKED_EQ, UINT32_MAX, obeyed[i].request),
            SCMP_CMP(2, SCMP_CMP_EQ, obeyed[i].code),
        };

        ret = seccomp_rule_add_array(context, SCMP_ACT_ERRNO(0), SCMP_SYS(ioctl), 2, compare);
    }
    return ret;
}

static int add_pictures(scmp_filter_ctx context) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(others_pictures); i++) {
        struct scmp_arg_cmp compare = SCMP_CMP(1, SCMP_CMP_MASKED_EQ, 0xff, others_pictures[i]);

        ret = seccomp_rule_add_array(context, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(ioctl), 1, &compare);
    }
    return ret;
}

/* All but those in `allowed`. The kernel reads an int; what has higher bits set is above
 * FAMILY_MAX here. */
static int add_families(scmp_filter_ctx context, uint64_t allowed) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(families); i++) {
        const uint32_t action = SCMP_ACT_ERRNO(EAFNOSUPPORT);
        int number = seccomp_syscall_resolve_name(families[i]);
        struct scmp_arg_cmp above = SCMP_A0(SCMP_CMP_GT, FAMILY_MAX);

        ret = seccomp_rule_add_array(context, action, number, 1, &above);
        for (uint64_t family = 0; ret == 0 && family <= FAMILY_MAX; family++) {
            struct scmp_arg_cmp equal = SCMP_A0(SCMP_CMP_EQ, family);

            if (!(allowed >> family & 1))
                ret = seccomp_rule_add_array(context, action, number, 1, &equal);
        }
    }
    return ret;
}

/* Options that take memory of the kernel's are judged by a program at the VM's cgroup, which system
 * calls of 32 bits do not come by (vm/sockets.bpf.h). A queue stays as it is without a word, as the
 * program would have it if there were no room. */
static const struct {
    uint32_t level, option;
    int error;
} judged[] = {
    {SOL_PACKET, PACKET_RX_RING, ENOMEM},
    {SOL_PACKET, PACKET_TX_RING, ENOMEM},
    {SOL_PACKET, PACKET_FANOUT, ENOMEM},
    {SOL_XDP, XDP_RX_RING, ENOMEM},
    {SOL_XDP, XDP_TX_RING, ENOMEM},
    {SOL_XDP, XDP_UMEM_REG, ENOMEM},
    {SOL_XDP, XDP_UMEM_FILL_RING, ENOMEM},
    {SOL_XDP, XDP_UMEM_COMPLETION_RING, ENOMEM},
    {SOL_SOCKET, SO_RCVBUF, 0},
};

static int add_judged(scmp_filter_ctx context) {
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(judged); i++) {
        struct scmp_arg_cmp compare[] = {
            SCMP_CMP(1, SCMP_CMP_MASKED_EQ, UINT32_MAX, judged[i].level),
            SCMP_CMP(2, SCMP_CMP_MASKED_EQ, UINT32_MAX, judged[i].option),
        };

        ret = seccomp_rule_add_array(context, SCMP_ACT_ERRNO((uint32_t)judged[i].error),
                                     SCMP_SYS(setsockopt), 2, compare);
    }
    return ret;
}

/* The program as the kernel takes it; libseccomp writes it to a file only. */
static int export(scmp_filter_ctx context, struct sock_fprog *program) {
    int fd = memfd_create("filter", MFD_CLOEXEC), ret;
    struct stat size;

    if (fd < 0)
        return -errno;
    ret = seccomp_export_bpf(context, fd);
    if (ret < 0)
        goto out;
    if (fstat(fd, &size) < 0) {
        ret = -errno;
        goto out;
    }
    program->len = (unsigned short)((size_t)size.st_size / sizeof(struct sock_filter));
    program->filter = malloc((size_t)size.st_size);
    if (!program->filter) {
        ret = -ENOMEM;
        goto out;
    }
    if (pread(fd, program->filter, (size_t)size.st_size, 0) != size.st_size)
        ret = -EIO;
out:
    close(fd);
    return ret;
}

static int add_reboot(scmp_filter_ctx context) {
    static const uint64_t restarts[] = {LINUX_REBOOT_CMD_RESTART, LINUX_REBOOT_CMD_RESTART2};
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < LENGTH(restarts); i++) {
        struct scmp_arg_cmp compare =
            SCMP_CMP(2, SCMP_CMP_MASKED_EQ, UINT64_C(0xffffffff), restarts[i]);

        ret = seccomp_rule_add_array(context, SCMP_ACT_KILL_PROCESS, SCMP_SYS(reboot), 1, &compare);
    }
    return ret;
}

/* What both tables of system calls have in common. */
static int add_all(scmp_filter_ctx context, unsigned kind) {
    int ret = seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));

    if (ret == 0)
        ret = add_calls(context);
    if (ret == 0)
        ret = add_flags(context, kind);
    if (ret == 0)
        ret = add_obeyed(context);
    if (ret == 0)
        ret = add_pictures(context);
    if (ret == 0)
        ret = add_families(context, HS_FAMILIES);
    if (ret == 0 && kind & HS_FILTER_BOOT)
        ret = add_reboot(context);
    return ret;
}

/* Adds the machine's system calls of 32 bits, if it has some. */
static int add_narrow(scmp_filter_ctx context, unsigned kind) {
    const uint32_t narrow = seccomp_arch_native() == SCMP_ARCH_X86_64    ? SCMP_ARCH_X86
                            : seccomp_arch_native() == SCMP_ARCH_AARCH64 ? SCMP_ARCH_ARM
                                                                         : SCMP_ARCH_NATIVE;
    scmp_filter_ctx other;
    int ret;

    if (narrow == SCMP_ARCH_NATIVE)
        return 0;
    other = seccomp_init(SCMP_ACT_ALLOW);
    if (!other)
        return -ENOMEM;
    ret = seccomp_arch_add(other, narrow);
    if (ret == 0)
        ret = seccomp_arch_remove(other, SCMP_ARCH_NATIVE);
    if (ret == 0)
        ret = add_all(other, kind);
    if (ret == 0)
        ret = add_judged(other);
    if (ret == 0)
        ret = seccomp_merge(context, other); /* releases it */
    if (ret < 0)
        seccomp_release(other);
    return ret;
}

static int make(struct sock_fprog *program, unsigned kind) {
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
    int ret;

    if (!context)
        return -ENOMEM;
    ret = add_all(context, kind);
    if (ret == 0)
        ret = add_narrow(context, kind);
    if (ret == 0)
        ret = export(context, program);
    seccomp_release(context);
    return ret;
}

static struct sock_fprog made[HS_FILTER_KINDS];
static int made_ret;

static void make_once(void) {
    for (unsigned kind = 0; made_ret == 0 && kind < HS_FILTER_KINDS; kind++)
        made_ret = make(&made[kind], kind);
}

int hs_filter(unsigned kind, const struct sock_fprog **filter) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_once);
    *filter = &made[kind];
    return made_ret;
}
