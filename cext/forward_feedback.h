/* What the input forwarder sets on a real device: LEDs and sounds (event-codes.rst, EV_LED,
 * EV_SND). Not part of the interface: forward_device.c calls. */
#ifndef HS_FORWARD_FEEDBACK_H
#define HS_FORWARD_FEEDBACK_H
#include "forward_device.h"

/* Exactly these LEDs on, as a bit set by LED code. */
void hs_feedback_leds(struct hs_device *d, uint32_t leds);
/* One sound; whether the device took it. */
bool hs_feedback_sound(struct hs_device *d, unsigned code, int32_t value);
/* Every bell and tone that the OS has on, as it has it or silent. An unplugged device is silent. */
void hs_feedback_sounds(struct hs_device *d, int os, bool on);

#endif
