// SPDX-License-Identifier: Apache-2.0
/* Force feedback through the input forwarder: each OS's effects and gain, the owner's of which are
 * on the real device (Documentation/input/ff.rst, linux/uinput.h). Not part of the interface:
 * input/device.c calls.
 *
 * An OS uploads effects to its clone at any time; they get to the hardware while it is the owner.
 * At release all of them are taken off the hardware, which stops what plays; it does not play on
 * at the next take until it is started again. Gain and autocentring are as drivers start with them
 * for an OS that has set none. */
#ifndef HS_FORWARD_FF_H
#define HS_FORWARD_FF_H
#include <linux/input.h>
#include <stdbool.h>

struct hs_ff;

/* NULL if there is no memory for it. */
struct hs_ff *hs_ff_new(void);
void hs_ff_free(struct hs_ff *ff);
/* An event that OS `os` made on its clone: EV_FF or EV_UINPUT. real: the hardware, or -1 if the
 * OS does not own it. Returns whether it was for force feedback. */
bool hs_ff_event(struct hs_ff *ff, unsigned os, int clone, int real, const struct input_event *e);
/* Take the OS's effects off the hardware; put them on. */
void hs_ff_release(struct hs_ff *ff, unsigned os, int real);
void hs_ff_take(struct hs_ff *ff, unsigned os, int real);

/* The OS has no effects, and has set nothing; it does not own the hardware. */
void hs_ff_forget(struct hs_ff *ff, unsigned os);

#endif
