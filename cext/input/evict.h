// SPDX-License-Identifier: Apache-2.0
/* The machine's own programs lose an input device that belongs to an OS now (EVIOCREVOKE,
 * drivers/input/evdev.c; pidfd_getfd(2)). */
#ifndef HS_INPUT_EVICT_H
#define HS_INPUT_EVICT_H
#include <stdint.h>

/* Revoke every open evdev file of these devices (numbers as in st_rdev) that any other process has:
 * its reads fail with ENODEV from now on. Whoever cannot open the node any more hears nothing. Not
 * found: files in a descriptor table that a thread has for itself, and on their way in a socket.
 * Returns how many were revoked, or a negative errno. */
int hs_evict(const uint64_t *devices, uint32_t n);

#endif
