// SPDX-License-Identifier: Apache-2.0
/* What comes back from the OSes: LEDs, sounds, effects (event-codes.rst, EV_LED, EV_SND, EV_FF);
 * the owner's are set on the real device. Not part of the interface: input/forward.c and
 * input/device.c call. */
#ifndef HS_FORWARD_FEEDBACK_H
#define HS_FORWARD_FEEDBACK_H
#include "input/device.h"

/* Exactly these LEDs on, as a bit set by LED code. */
void hs_feedback_leds(struct hs_device *d, uint32_t leds);
/* Read once what the OS said to its clone, and handle it. 0: nothing more waits; 1: more may wait;
 * -ENODEV: the clone is gone. */
int hs_feedback_read(struct hs_device *d, int os);
/* Every bell and tone that the OS has on, as it has it or silent. An unplugged device is silent. */
void hs_feedback_sounds(struct hs_device *d, int os, bool on);

#endif
