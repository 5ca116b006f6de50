// SPDX-License-Identifier: Apache-2.0
/* Keeps open files for a while, and closes them on threads of its own. Not part of the interface:
 * input/revoke.c uses it.
 *
 * Closing the last descriptor of an evdev file waits for an RCU grace period, many milliseconds for
 * each file, and the programs of the OS that lost its devices would do that one after the other,
 * while they may be asked to open the devices again. So a revoked file is kept while its programs
 * close theirs, and the wait is a thread's of ours. */
#ifndef HS_KEEPER_H
#define HS_KEEPER_H
#include <stdint.h>

#define HS_KEEPER_MOST 256 /* files; what is more is closed at once */
#define HS_KEEPER_MS 250   /* how long a file is kept */

struct hs_keeper;

/* With its threads: to start them takes longer than a revoke. */
int hs_keeper_new(struct hs_keeper **out);
/* Closes all files now, and ends. NULL is allowed. */
void hs_keeper_free(struct hs_keeper *k);
/* The descriptor is the keeper's from now on. */
void hs_keeper_add(struct hs_keeper *k, int fd);
/* How many are kept, or being closed. */
uint32_t hs_keeper_count(struct hs_keeper *k);

#endif
