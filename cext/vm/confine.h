/* What keeps root of a VM from being root of the machine, for a process about to execute a program
 * there: capabilities(7) and seccomp(2).
 *
 * The bounding set keeps the capabilities of vm/confine.c's list; the exec that follows takes the
 * rest from the permitted set too. Until that exec the process is above every process of the VM in
 * capabilities, and CAP_SYS_PTRACE is not in the list, so none of them can read or stop it while it
 * still holds its caller's memory and descriptors.
 *
 * The filter refuses what capabilities do not govern: user namespaces (EPERM), in which root would
 * get every capability back, enough to mount a cgroup tree and lift its own limits; and AF_VSOCK
 * (EAFNOSUPPORT), which knows no network namespaces. What a filter cannot look into is ENOSYS: the
 * flags of clone3 (libc then uses clone), and the requests of io_uring. */
#ifndef HS_CONFINE_H
#define HS_CONFINE_H

/* Returns 0 or a negative errno. Uses nothing but system calls. */
int hs_confine(void);

#endif
