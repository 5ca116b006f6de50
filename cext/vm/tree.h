// SPDX-License-Identifier: Apache-2.0
/* Files in a VM's tree, where the VM's user 0 may put anything in our way: a link, a FIFO, a mount.
 *
 * A path is looked up by openat2(2): never above the directory it starts in, never through a link
 * of either kind. What is there is opened without waiting (a FIFO, a device) and never becomes our
 * terminal. */
#ifndef HS_TREE_H
#define HS_TREE_H

enum {
    HS_TREE_ACROSS = 1, /* mounts below the directory may be entered; they are known to be ours */
};

/* Open `path` below `directory`. flags, mode: as for open(2); O_CLOEXEC is added, and O_NONBLOCK
 * and O_NOCTTY unless flags have O_PATH. how: HS_TREE_ACROSS or 0.
 * Returns the descriptor, the caller's, or a negative errno: -ELOOP for a link, -EXDEV for a mount
 * or a way out, else as open(2). */
int hs_tree_open(int directory, const char *path, int flags, unsigned mode, int how);

#endif
