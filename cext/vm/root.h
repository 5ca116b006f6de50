// SPDX-License-Identifier: Apache-2.0
/* What a VM sees of files: its root, and what is its own in it.
 *
 * The root. Private: an overlay over the machine's (overlayfs, Documentation/filesystems), whose
 * changes are in a tmpfs; reading shows the machine's files as they are, and a write, a rename, a
 * new owner stay in the VM. A UNIX socket or FIFO of the machine's has no one at its other end
 * there, and a lease or lock holds nobody outside. Other file systems that are mounted below / get
 * an overlay each, in the same tmpfs; one that cannot have one is bound read-only. The machine's
 * root stays below the overlay, covered: nobody without CAP_SYS_ADMIN outside uncovers it, and an
 * unmount would wait for every CPU. Pseudo file systems are not shown. Shared: the machine's own.
 *
 * Own: an overlay in the same way, over another root: a directory or an image (vm/lower.h).
 *
 * In it, whichever it is: /run, /dev, /proc and /sys of the VM's own.
 *
 * All of it is mounted by process 1 before it enters the fence, so that nothing in the VM can mount
 * or unmount, device nodes work, and the daemon may make files in /run and /dev/input. Functions
 * return 0 or a negative errno, and use nothing but system calls. */
#ifndef HS_ROOT_H
#define HS_ROOT_H
#include <stddef.h>
#include <stdint.h>

/* A directory of the machine that a VM has in common with it. */
struct hs_share {
    const char *path; /* absolute, the same on both sides */
    int read_only;
};

/* A private root. */
struct hs_root {
    const char *size;          /* of the tmpfs, as tmpfs(5) has it: "size=BYTES", "size=50%" */
    const char *const *layers; /* mount data "lowerdir=PATH,..." of each overlay, / first; NULL at
                                  the end. The upper directories are /run/N/up and /run/N/work */
    const char *const *points; /* where each is mounted, below HS_NEW_ROOT */
    const char *const *lower;  /* what each shows, to bind if there can be no overlay */
    const struct hs_share *shares;
    size_t share_count;
};

/* A file that every start writes anew into a root of its own: absolute, and its whole text. */
struct hs_text {
    const char *path;
    const char *text;
};

/* A root of its own. The descriptors are detached mounts, mapped to the VM's ids. */
struct hs_own {
    const char *size;          /* as above */
    const char *tmp;           /* mount data of a tmpfs on /tmp, below the shares; NULL: none */
    int lower_fd;              /* what is shown: vm/lower.h */
    int keep_fd;               /* a directory that has up/ and work/, for the changes; -1: memory */
    const int *share_fds;      /* what is bound in ... */
    const char *const *shares; /* ... and where; NULL at the end */
    const struct hs_text *texts; /* path NULL at the end */
};

#define HS_NEW_ROOT "/run/root"

/* A descriptor of /dev/null, the caller's, by which a program can neither change the file's mode or
 * owner nor come to one that can be changed: of a read-only mount of its own. Waits for every CPU.
 * Not between clone and exec. */
int hs_root_null(void);

int hs_root_make(const struct hs_root *root);
/* A /proc of the caller's PID namespace that nobody sees: before hs_root_own, which covers it. A
 * user namespace in the VM may mount /proc only if its mount namespace has one with nothing on top
 * (mount_too_revealing in fs/namespace.c), whether or not a path leads there; the VM's own has
 * read-only and empty files (hs_root_proc, hs_root_mask). */
int hs_root_plain_proc(void);
/* The caller's file system ids (setfsuid(2)) are those of user 0 of the VM: what is made is its. */
int hs_root_own(const struct hs_own *own);
int hs_root_run(const char *data); /* of the tmpfs on /run: tmpfs(5) */
/* shm: the same for /dev/shm. pts: mount data of the devpts on /dev/pts. */
int hs_root_dev(const char *shm, const char *pts);
/* sealed: paths below /proc that become read-only, NULL at the end. /proc/sys/net stays writable,
 * but for those that are below it. */
int hs_root_proc(const char *const *sealed);
int hs_root_sys(void);
/* Cover what tells of the machine or its other users: files and directories become empty, and
 * read-only. masked: paths below /proc and /sys, NULL at the end. One that is not there is no
 * error. After hs_root_run. */
int hs_root_mask(const char *const *masked);
/* What systemd as process 1 wants there and may not mount (https://systemd.io/CONTAINER_INTERFACE),
 * beside a file system in memory on /tmp: another on /run/lock, the caller's cgroup namespace at
 * /sys/fs/cgroup, and the terminal `console` at /dev/console. lock: mount data. console: a detached
 * mount of one. */
int hs_root_boot(const char *lock, int console);
/* A descriptor of an executable file, O_PATH, the caller's: by a read-only mount of its own, so
 * that a program that is started by it cannot be written to through /proc/PID/exe. */
int hs_root_program(const char *path);

#endif
