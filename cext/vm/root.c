// SPDX-License-Identifier: Apache-2.0
/* See vm/root.h. This file: the mounts of process 1. */
#define _GNU_SOURCE
#include "vm/root.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* The device nodes of a VM: the same as in vm/devices.bpf.c, which lets them be opened. */
static const struct {
    const char *path;
    unsigned major, minor;
} nodes[] = {
    {"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

static const struct {
    const char *path, *target;
} links[] = {
    {"/dev/ptmx", "pts/ptmx"},          {"/dev/fd", "/proc/self/fd"},
    {"/dev/stdin", "/proc/self/fd/0"},  {"/dev/stdout", "/proc/self/fd/1"},
    {"/dev/stderr", "/proc/self/fd/2"},
};

/* Where one overlay's changes are: /run/N/up and /run/N/work. */
static void changes(char *path, size_t n, const char *name) {
    /* No snprintf: the child may share its caller's memory, and this is after a clone. */
    char digits[8];
    size_t length = 0, at = 0;

    do
        digits[length++] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    for (const char *from = "/run/"; *from; from++)
        path[at++] = *from;
    while (length > 0)
        path[at++] = digits[--length];
    while (*name)
        path[at++] = *name++;
    path[at] = '\0';
}

/* The overlay's top has the owner and mode of its upper directory. */
static int make_changes(size_t n, const char *lower) {
    static const char *const names[] = {"", "/work", "/up"};
    struct stat top;
    char path[32];

    for (size_t i = 0; i < LENGTH(names); i++) {
        changes(path, n, names[i]);
        if (mkdir(path, 0700) < 0)
            return -errno;
    }
    if (stat(lower, &top) < 0 || chown(path, top.st_uid, top.st_gid) < 0 ||
        chmod(path, top.st_mode & 07777) < 0)
        return -errno;
    return 0;
}

static int bind_read_only(const char *from, const char *to) {
    if (mount(from, to, NULL, MS_BIND, NULL) < 0)
        return -errno;
    return mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) < 0
               ? -errno
               : 0;
}

static int make_layer(const struct hs_root *root, size_t n) {
    int ret = make_changes(n, root->lower[n]);

    if (ret < 0)
        return n > 0 && ret == -ENOENT ? 0 : ret; /* it has gone meanwhile */
    if (mount("overlay", root->points[n], "overlay", MS_NODEV, root->layers[n]) == 0)
        return 0;
    ret = -errno;
    if (n == 0)
        return ret; /* without the root's own there is none */
    ret = bind_read_only(root->lower[n], root->points[n]);
    return ret == -ENOENT || ret == -ENOTDIR ? 0 : ret; /* it has gone meanwhile */
}

static int make_share(const struct hs_share *share) {
    char to[PATH_MAX];
    size_t length = strlen(share->path);

    if (length + sizeof(HS_NEW_ROOT) > sizeof(to))
        return -ENAMETOOLONG;
    memcpy(to, HS_NEW_ROOT, sizeof(HS_NEW_ROOT) - 1);
    memcpy(to + sizeof(HS_NEW_ROOT) - 1, share->path, length + 1);
    if (share->read_only)
        return bind_read_only(share->path, to);
    return mount(share->path, to, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

/* Open a file by a mount of its own that is read-only and has these attributes too. */
static int open_fixed(const char *file, uint64_t attributes, int flags) {
    struct mount_attr fixed = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | attributes};
    char path[32];
    int tree, ret;

    tree = open_tree(AT_FDCWD, file, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0)
        return -errno;
    if (mount_setattr(tree, "", AT_EMPTY_PATH, &fixed, sizeof(fixed)) < 0) {
        ret = -errno;
        goto out;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", tree);
    ret = open(path, flags | O_CLOEXEC);
    if (ret < 0)
        ret = -errno;
out:
    close(tree);
    return ret;
}

int hs_root_null(void) {
    return open_fixed("/dev/null", MOUNT_ATTR_NOEXEC, O_RDWR);
}

int hs_root_program(const char *path) {
    return open_fixed(path, 0, O_PATH);
}

/* What is mounted at HS_NEW_ROOT becomes /. */
static int turn(void) {
    int ret, fd = open(HS_NEW_ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    ret = mount(HS_NEW_ROOT, "/", NULL, MS_MOVE, NULL) < 0 || fchdir(fd) < 0 || chroot(".") < 0
              ? -errno
              : 0;
    close(fd);
    return ret;
}

int hs_root_make(const struct hs_root *root) {
    int ret;

    if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, root->size) < 0)
        return -errno;
    if (mkdir(HS_NEW_ROOT, 0755) < 0)
        return -errno;
    for (size_t n = 0; root->layers[n]; n++) {
        ret = make_layer(root, n);
        if (ret < 0)
            return ret;
    }
    for (size_t i = 0; i < root->share_count; i++) {
        ret = make_share(&root->shares[i]);
        if (ret < 0)
            return ret;
    }
    return turn();
}

int hs_root_plain_proc(void) {
    return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ? -errno : 0;
}

static int make_directory(const char *path, mode_t mode) {
    return mkdir(path, mode) < 0 && errno != EEXIST ? -errno : 0;
}

static int attach(int tree, const char *path) {
    return move_mount(tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Every directory on the way to `path`, and itself. */
static int make_way(const char *path) {
    char part[PATH_MAX];
    size_t length = 0;
    int ret = 0;

    for (; path[length] && ret == 0; length++) {
        if (length + 1 >= sizeof(part))
            return -ENAMETOOLONG;
        part[length] = path[length];
        part[length + 1] = '\0';
        if (length > 0 && (path[length + 1] == '/' || path[length + 1] == '\0'))
            ret = make_directory(part, 0755);
    }
    return ret;
}

/* In place of whatever the root has there: a link, a FIFO. A root without the directory has no use
 * for it. */
static int write_text(const struct hs_text *text) {
    size_t length = strlen(text->text);
    int fd, ret = 0;

    if (unlink(text->path) < 0 && errno != ENOENT && errno != ENOTDIR && errno != EISDIR)
        return -errno;
    fd = open(text->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EEXIST || errno == ELOOP ? 0
                                                                                        : -errno;
    if (write(fd, text->text, length) != (ssize_t)length)
        ret = errno ? -errno : -EIO;
    close(fd);
    return ret;
}

int hs_root_own(const struct hs_own *own) {
    static const char *const directories[] = {"/run", "/dev", "/proc", "/sys", "/tmp"};
    static const char lower[] = "/run/lower",
                      memory[] = "lowerdir=/run/lower,upperdir=/run/0/up,"
                                 "workdir=/run/0/work",
                      kept[] = "lowerdir=/run/lower,upperdir=/run/0/up,workdir=/run/0/work,"
                               "index=on";
    int ret;

    if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, own->size) < 0)
        return -errno;
    if (mkdir(HS_NEW_ROOT, 0755) < 0 || mkdir(lower, 0755) < 0)
        return -errno;
    ret = attach(own->lower_fd, lower);
    if (ret == 0 && own->keep_fd >= 0)
        ret = mkdir("/run/0", 0700) < 0 ? -errno : attach(own->keep_fd, "/run/0");
    else if (ret == 0)
        ret = make_changes(0, lower);
    if (ret < 0)
        return ret;
    if (mount("overlay", HS_NEW_ROOT, "overlay", MS_NODEV, own->keep_fd >= 0 ? kept : memory) < 0)
        return -errno;
    ret = turn();
    /* From here on no link in the root leads out of it. */
    for (size_t i = 0; ret == 0 && i < LENGTH(directories); i++)
        ret = make_directory(directories[i], i + 1 == LENGTH(directories) ? 01777 : 0755);
    if (ret == 0 && own->tmp && mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, own->tmp) < 0)
        ret = -errno;
    for (size_t i = 0; ret == 0 && own->shares[i]; i++) {
        ret = make_way(own->shares[i]);
        if (ret == 0)
            ret = attach(own->share_fds[i], own->shares[i]);
    }
    for (const struct hs_text *text = own->texts; ret == 0 && text->path; text++)
        ret = write_text(text);
    return ret;
}

int hs_root_run(const char *data) {
    if (mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, data) < 0)
        return -errno;
    if (mkdir("/run/hostsim", 0755) < 0)
        return -errno;
    if (mkdir("/run/lock", 01777) < 0)
        return -errno;
    if (mkdir("/run/udev", 0755) < 0 || mkdir("/run/udev/data", 0755) < 0)
        return -errno;
    return 0;
}

int hs_root_dev(const char *shm, const char *pts) {
    if (mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m") < 0)
        return -errno;
    for (size_t i = 0; i < LENGTH(nodes); i++)
        if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0)
            return -errno;
    for (size_t i = 0; i < LENGTH(links); i++)
        if (symlink(links[i].target, links[i].path) < 0)
            return -errno;
    if (mkdir("/dev/pts", 0755) < 0 || mkdir("/dev/shm", 01777) < 0 ||
        mkdir("/dev/input", 0755) < 0)
        return -errno;
    if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, pts) < 0)
        return -errno;
    if (mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, shm) < 0)
        return -errno;
    if (mount("tmpfs", "/dev/input", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m") < 0)
        return -errno;
    return 0;
}

static int bind_flags(const char *path, unsigned long flags) {
    if (mount(path, path, NULL, MS_BIND, NULL) < 0)
        return -errno;
    flags |= MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    return mount(NULL, path, NULL, flags, NULL) < 0 ? -errno : 0;
}

/* Those that are below `top`, or those that are not. One that is not there is no error. */
static int seal(const char *const *paths, const char *top, bool below) {
    size_t length = strlen(top);

    for (; *paths; paths++) {
        bool is = strncmp(*paths, top, length) == 0 && (*paths)[length] == '/';
        int ret = is == below ? bind_flags(*paths, MS_RDONLY) : 0;

        if (ret < 0 && ret != -ENOENT)
            return ret;
    }
    return 0;
}

int hs_root_proc(const char *const *sealed) {
    static const char net[] = "/proc/sys/net";
    int ret;

    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    ret = seal(sealed, net, false);
    if (ret == 0)
        ret = bind_flags(net, 0); /* on top of /proc/sys: writable, its own namespace's */
    return ret < 0 ? ret : seal(sealed, net, true);
}

int hs_root_mask(const char *const *masked) {
    static const char file[] = "/run/masked", directory[] = "/run/masked.d";
    struct stat about;
    int fd, ret = 0;

    fd = open(file, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
    if (fd < 0)
        return -errno;
    close(fd);
    if (mkdir(directory, 0555) < 0)
        return -errno;
    for (; *masked && ret == 0; masked++)
        if (stat(*masked, &about) == 0)
            ret = bind_read_only(S_ISDIR(about.st_mode) ? directory : file, *masked);
    /* Nobody finds them any more but where they are mounted. */
    if (unlink(file) < 0 || rmdir(directory) < 0)
        return -errno;
    return ret;
}

int hs_root_sys(void) {
    if (mount("sysfs", "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    /* Where libudev looks for input devices: empty, until the VM is given some. */
    if (mount("tmpfs", "/sys/class/input", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "mode=0755,size=1m") < 0 &&
        errno != ENOENT)
        return -errno;
    return 0;
}

int hs_root_boot(const char *lock, int console) {
    int fd;

    if (mount("tmpfs", "/run/lock", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, lock) < 0 ||
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    fd = open("/dev/console", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    close(fd);
    return attach(console, "/dev/console");
}
