// SPDX-License-Identifier: Apache-2.0
/* Bells: how one side of a channel wakes the other if it sleeps.
 *
 * A bell is a pipe: whoever sleeps holds the end to read, its peer the end to write, and neither
 * can touch the other's. An eventfd has only one open file for both: a hostile peer could take
 * O_NONBLOCK off it (fcntl(2)) and fill its counter, and the next ring would hang for ever.
 *
 * Both ends are non-blocking. A full pipe is a bell that has been rung.
 */
#ifndef HS_BELL_H
#define HS_BELL_H
#include <stdint.h>

/* Ring it. Nobody to hear it is no error here: the peer's death is the daemon's to notice.
 * SIGPIPE must be ignored in the process, as Python does. */
void hs_bell_ring(int fd);

/* Empty it, once: a peer that floods it only makes its own wake-ups cheaper. */
void hs_bell_quiet(int fd);

/* Monotonic time, ns. */
uint64_t hs_now(void);

#endif
