// SPDX-License-Identifier: Apache-2.0
/* What a flip does with an evdev node and its device, without the interpreter: a key that is down,
 * a contact, a sound ends; the node appears in a directory (linux/input.h; mknod(2)). */
#ifndef HS_EVNODE_H
#define HS_EVNODE_H
#include <stdint.h>

/* Bring the device of an evdev descriptor to rest, by events that are injected (write(2) on the
 * node), so that all readers and the kernel's own record have it so, and the hardware's own release
 * is no change any more: release each key that is down but for the `n` to keep (EV_KEY codes), lift
 * each contact (the slot that the hardware speaks of stays what it was), silence bells and tones,
 * and set force feedback's gain to full and its centring to none. keys: only the first of these.
 * How many keys were released and contacts lifted, or a negative errno (ENODEV: unplugged). */
int hs_evnode_still(int fd, const uint16_t *keep, uint32_t n, int keys);

/* Make a character node of mode 0660, owned by a user and a group, in place of whatever has that
 * name in the directory. The umask is changed and restored. Returns 0 or a negative errno. */
int hs_evnode_make(int directory, const char *name, uint64_t rdev, uint32_t owner, uint32_t group);
/* A descriptor (O_PATH) of the character node of this number that has a name in the directory; or a
 * negative errno. ESTALE: something else has the name. */
int hs_evnode_hold(int directory, const char *name, uint64_t rdev);
/* This very node, by the descriptor, gets a new name in a directory of the same file system, in
 * place of whatever has it. What its old name leads to by now makes no difference. Returns 0 or a
 * negative errno. ENOENT: it has no name any more, and gets none. */
int hs_evnode_put(int node, int directory, const char *name);

#endif
