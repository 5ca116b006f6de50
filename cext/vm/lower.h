// SPDX-License-Identifier: Apache-2.0
/* What a VM's own root shows: a directory of the machine, or an image of a file system, as a mount
 * that is attached nowhere yet (open_tree(2), fsmount(2)); and the owners of files in it.
 *
 * An image is mounted from the file itself if the kernel can (erofs, 6.12), else by a loop device
 * that goes with the mount (LO_FLAGS_AUTOCLEAR, loop(4)). An image is mounted read-only.
 *
 * Functions return a descriptor, the caller's, or a negative errno. */
#ifndef HS_LOWER_H
#define HS_LOWER_H

/* A directory, without what is mounted below it. */
int hs_lower_directory(const char *path);

/* An image. type: of its file system, as in /proc/filesystems. */
int hs_lower_image(const char *path, const char *type);

/* The same tree in a mount of its own. */
int hs_lower_again(int tree);

/* Have the mount show its files as those of the user namespace: its user 0 has what is user 0's on
 * disk (mount_setattr(2), MOUNT_ATTR_IDMAP). EINVAL: a file system that cannot. Returns 0. */
int hs_lower_map(int tree, int user_fd);

/* No write through the mount. Returns 0. */
int hs_lower_read_only(int tree);

#endif
