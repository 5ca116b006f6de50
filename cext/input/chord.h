// SPDX-License-Identifier: Apache-2.0
/* A hotkey: keys that mean something when all of them are down, on whichever device each is. Pure:
 * no device, no clock, no memory of its own.
 *
 * A key of a hotkey is sent on at once, as any other key is. When the last one goes down, that
 * press is swallowed, and what was sent of the others is taken back: released for the owner. So a
 * hotkey holds nothing back, and the bound for every other press is zero. The other way, to hold
 * the first key for some 20 ms, was left out, because:
 *  - people press the keys of a hotkey one after the other, mostly with more than 20 ms between
 *    them: the first key would come out all the same, and has to be taken back all the same;
 *  - within these 20 ms a click of a device that the forwarder does not move (mode `direct`)
 * overtakes the modifier that is held: Ctrl+click arrives as click;
 *  - a game polls or is told of each press: every Ctrl, the crouch or push-to-talk of many, were
 *    late by the bound, and later by one frame of the game's;
 *  - libinput stamps keys with the time they have in the clone; a lone tap shorter than the bound
 *    became a press and a release of the same time, which a screen reader's double tap takes for
 * none. What it costs: the owner sees a tap of the first key when the hotkey is pressed, that is, a
 * press and a release. libinput, toolkits and games take a lone tap of Ctrl or Shift for nothing; a
 * screen reader stops speaking at Ctrl, which a flip may do. Desktops open a menu at a lone tap of
 * Meta, and some applications at one of Alt: a hotkey is better made without these two.
 *
 * Other keys that are down do not matter: one that hangs must not disable the hotkey. A hotkey
 * fires at each press of one of its keys that makes it whole; it is whole again only after one was
 * let go. */
#ifndef HS_CHORD_H
#define HS_CHORD_H
#include <stdbool.h>
#include <stdint.h>

#define HS_CHORD_KEYS 8     /* most keys of a hotkey */
#define HS_CHORD_DEVICES 64 /* devices are numbered from 0; bits of a word */

struct hs_chord {
    uint32_t n; /* 0: none */
    uint16_t code[HS_CHORD_KEYS];
    uint64_t down[HS_CHORD_KEYS]; /* by key: the devices on which it is down */
};
_Static_assert(sizeof(struct hs_chord) == 24 + 8 * HS_CHORD_KEYS, "struct hs_chord");

/* Set its keys; nothing is down. n: at most HS_CHORD_KEYS. */
void hs_chord_set(struct hs_chord *c, const uint16_t *codes, uint32_t n);
/* Whether it has exactly these keys, in any order. */
bool hs_chord_is(const struct hs_chord *c, const uint16_t *codes, uint32_t n);
/* Whether the key is one of it. */
bool hs_chord_has(const struct hs_chord *c, uint16_t code);
/* Whether all its keys are down. Never with no keys. */
bool hs_chord_whole(const struct hs_chord *c);
/* A key of a device is down now, or up. Whether that made the hotkey whole. A key that is none of
 * it, and a report of what is so already, change nothing. */
bool hs_chord_key(struct hs_chord *c, uint32_t device, uint16_t code, bool down);
/* The device is gone, and with it what was down there. */
void hs_chord_gone(struct hs_chord *c, uint32_t device);

#endif
