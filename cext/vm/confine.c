/* See vm/confine.h. */
#define _GNU_SOURCE
#include "vm/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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

/* The numbers of a 32-bit program under the same kernel, which has its own table (socketcall, the
 * other way to a socket, takes its family from memory and is refused as a whole). */
#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define NARROW_ARCH AUDIT_ARCH_I386
#define NARROW_UNSHARE 310
#define NARROW_SOCKET 359
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define NARROW_ARCH AUDIT_ARCH_ARM
#define NARROW_UNSHARE 337
#define NARROW_SOCKET 281
#else
#error "the filter needs this machine's AUDIT_ARCH and system call numbers"
#endif
#define NARROW_CLONE 120
#define NARROW_SOCKETCALL 102
#define IO_URING_SETUP 425 /* in every table */
#define CLONE3 435
#define X32_BIT 0x40000000U /* the third table of x86-64; its numbers are the first's */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define REFUSE(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

/* The low half of a 64-bit argument; all flags and families are there. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the filter reads the low halves of arguments where a little-endian machine has them"
#endif

static const struct sock_filter code[] = {
    /* 0 */ LOAD(arch),
    /* 1 */ EQUAL(ARCH, 2, 0),
    /* 2 */ EQUAL(NARROW_ARCH, 8, 0),
    /* 3 */ REFUSE(ENOSYS),
    /* 4: the machine's own table */ LOAD(nr),
    /* 5 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~X32_BIT),
    /* 6 */ EQUAL(CLONE3, 19, 0),
    /* 7 */ EQUAL(IO_URING_SETUP, 18, 0),
    /* 8 */ EQUAL(SYS_clone, 10, 0),
    /* 9 */ EQUAL(SYS_unshare, 9, 0),
    /* 10 */ EQUAL(SYS_socket, 11, 7),
    /* 11: the 32-bit table */ LOAD(nr),
    /* 12 */ EQUAL(CLONE3, 13, 0),
    /* 13 */ EQUAL(IO_URING_SETUP, 12, 0),
    /* 14 */ EQUAL(NARROW_SOCKETCALL, 11, 0),
    /* 15 */ EQUAL(NARROW_CLONE, 3, 0),
    /* 16 */ EQUAL(NARROW_UNSHARE, 2, 0),
    /* 17 */ EQUAL(NARROW_SOCKET, 4, 0),
    /* 18 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    /* 19: clone, unshare */ LOAD(args[0]),
    /* 20 */ BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 3),
    /* 21 */ REFUSE(EPERM),
    /* 22: socket */ LOAD(args[0]),
    /* 23 */ EQUAL(AF_VSOCK, 1, 0),
    /* 24 */ BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    /* 25 */ REFUSE(EAFNOSUPPORT),
    /* 26: clone3, io_uring, socketcall */ REFUSE(ENOSYS),
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

int hs_confine(void) {
    const struct sock_fprog filter = {
        .len = sizeof(code) / sizeof(code[0]),
        .filter = (struct sock_filter *)code,
    };

    /* By CAP_SYS_ADMIN, not by no_new_privs: sudo and ping stay what they are in the VM. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) < 0)
        return -errno;
    return drop_capabilities();
}
