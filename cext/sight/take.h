/* Takes what a capture's BPF programs saw out of their buffers, into one piece of memory.
 *
 * One thread. Records stand behind one another: uint32_t size, then struct hs_sight and the bytes
 * of the frame, padded to 4. */
#ifndef HS_TAKE_H
#define HS_TAKE_H

#include <stddef.h>
#include <stdint.h>

struct hs_taker;

/* map_fd: `sights`. pages: of each CPU's buffer, a power of two. NULL and errno. */
struct hs_taker *hs_taker_open(int map_fd, size_t pages, size_t room);
/* Wait so many ms for records, and take them. Returns how many bytes are in `hs_taker_bytes`, which
 * the next call overwrites; or a negative errno. */
int64_t hs_taker_take(struct hs_taker *taker, int ms);
const uint8_t *hs_taker_bytes(const struct hs_taker *taker);
/* Records that were lost since the start: no room in the kernel's buffer, or in ours. */
uint64_t hs_taker_lost(const struct hs_taker *taker);
void hs_taker_close(struct hs_taker *taker);

#endif
