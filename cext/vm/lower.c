// SPDX-License-Identifier: Apache-2.0
/* See vm/lower.h. This file: the system calls, and the loop device. */
#define _GNU_SOURCE
#include "vm/lower.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#define TRIES 16 /* loop devices that somebody else takes before we do */

int hs_lower_directory(const char *path) {
    int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int hs_lower_again(int tree) {
    int fd = open_tree(tree, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static int mount_source(const char *source, const char *type) {
    int fs, ret;

    fs = fsopen(type, FSOPEN_CLOEXEC);
    if (fs < 0)
        return -errno;
    if (fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0 ||
        fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
        fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        ret = -errno;
        goto out;
    }
    ret = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
    if (ret < 0)
        ret = -errno;
out:
    close(fs);
    return ret;
}

/* A loop device of the file, which lives as long as our descriptor or a mount of it. */
static int open_loop(int file, char *name, size_t size) {
    struct loop_config config = {
        .fd = (uint32_t)file,
        .info = {.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR},
    };
    int control, fd, number, ret = -EBUSY;

    control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return -errno;
    for (int i = 0; i < TRIES && ret == -EBUSY; i++) {
        number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) {
            ret = -errno;
            break;
        }
        snprintf(name, size, "/dev/loop%d", number);
        fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            ret = -errno;
            break;
        }
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            ret = fd;
        } else {
            ret = -errno;
            close(fd);
        }
    }
    close(control);
    return ret;
}

int hs_lower_image(const char *path, const char *type) {
    char name[32];
    int file, loop, ret = mount_source(path, type);

    if (ret != -ENOTBLK)
        return ret;
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -errno;
    loop = open_loop(file, name, sizeof(name));
    close(file);
    if (loop < 0)
        return loop;
    ret = mount_source(name, type);
    close(loop);
    return ret;
}

static int change(int tree, struct mount_attr *attributes) {
    return mount_setattr(tree, "", AT_EMPTY_PATH, attributes, sizeof(*attributes)) < 0 ? -errno : 0;
}

int hs_lower_map(int tree, int user_fd) {
    return change(
        tree, &(struct mount_attr){.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)user_fd});
}

int hs_lower_read_only(int tree) {
    return change(tree, &(struct mount_attr){.attr_set = MOUNT_ATTR_RDONLY});
}
