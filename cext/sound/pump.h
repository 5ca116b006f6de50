// SPDX-License-Identifier: Apache-2.0
/* The sound pump: what the foreground OS plays, from its loop to the machine's sound card, on a
 * thread of its own (linux sound/asound.h; snd-aloop: sound/drivers/aloop.c).
 *
 * A loop is an snd-aloop card. An OS has the card's device 0; the pump has a capture descriptor of
 * device 1, where what is played on device 0 comes out, and the card's control descriptor, which
 * tells when that begins and ends. All descriptors stay the caller's, are non-blocking, are of no
 * other use, and must live until hs_pump_free has returned.
 *
 * All loops and the card have one format, which the card's abilities decide (hs_pump_new): a loop
 * takes on the format of its first open end, which is the pump's. So frames are copied as they are.
 *
 * Every OS plays on in the background; its frames go nowhere. Its loop keeps the last ones: at a
 * take the pump begins with HS_PUMP_FILL_MS of them, so that the card has frames to play from the
 * first moment on. At a release, what the card has not begun to play is taken back, but for
 * HS_PUMP_MARGIN_MS that it may have read already.
 *
 * The loop's clock is the kernel's, and the card has its own: the pump has the loop's run so that
 * the card's store stays even. An OS that starts and stops all the time costs one look each tick.
 *
 * One mutex holds the whole state. The thread takes it for one bounded batch of copying. So when
 * hs_pump_release returns, no frame of the old OS is put in any more; nothing between threads rests
 * on atomics.
 *
 * Every function returns 0 or a value >= 0, or a negative errno. */
#ifndef HS_PUMP_H
#define HS_PUMP_H
#include <stdint.h>

#define HS_PUMP_LOOPS 16    /* most OSes */
#define HS_PUMP_FILL_MS 40  /* of frames that the card has in store */
#define HS_PUMP_MARGIN_MS 4 /* ... and those of them that cannot be taken back */

/* What became of the frames of foreground OSes. */
struct hs_pump_stats {
    uint64_t played;    /* given to the card */
    uint64_t padded;    /* silent ones, put in front of a beginning */
    uint64_t dropped;   /* too many were in store */
    uint64_t taken;     /* taken back from the card at a release */
    uint64_t underruns; /* times that the card had nothing left, though the OS was playing */
};
_Static_assert(sizeof(struct hs_pump_stats) == 40, "struct hs_pump_stats");

struct hs_pump;

/* Set the card's playback descriptor up and start the thread. EINVAL: a card that has none of the
 * formats that a loop has. */
int hs_pump_new(struct hs_pump **out, int card);
/* Stop the thread and free; the card is silent then. NULL is allowed. */
void hs_pump_free(struct hs_pump *p);

/* Add an OS's loop: its number, from 0 on. ENOSPC: too many. */
int hs_pump_add(struct hs_pump *p, int capture, int control);
/* Frames a second, of all. */
int hs_pump_rate(const struct hs_pump *p);

/* Nobody is heard. */
int hs_pump_release(struct hs_pump *p);
/* This loop is heard. EBUSY: another one is. ENOENT: no such loop. */
int hs_pump_take(struct hs_pump *p, int loop);

int hs_pump_stats(struct hs_pump *p, struct hs_pump_stats *out);

#endif
