// SPDX-License-Identifier: Apache-2.0
/* One device of the input forwarder: what is pressed, touched and lit, for the hardware and for
 * each OS, and what of a frame its owner gets. Not part of the interface: input/forward.c locks and
 * calls. See input/forward.h for the rules. */
#ifndef HS_FORWARD_DEVICE_H
#define HS_FORWARD_DEVICE_H
#include "input/forward.h"
#include "input/bits.h"
#include "input/chord.h"
#include "input/ff.h"

#include <stddef.h>

#define HS_FRAME 256 /* most events of a frame; what is longer is dropped, counted, resynced */

struct hs_device;

/* All devices of a forwarder, and their hotkeys: devices with the same keys have the same one. */
struct hs_device_set {
    struct hs_device *device[HS_FWD_DEVICES];
    struct hs_chord chord[HS_FWD_DEVICES]; /* one that no device has has no keys */
    void (*notice)(struct hs_device_set *set, uint32_t type, int32_t device);
    unsigned oses;
    bool carry; /* held modifiers go from owner to owner */
};
_Static_assert(HS_FWD_DEVICES <= HS_CHORD_DEVICES, "a hotkey has a bit for each device");

struct hs_device {
    struct hs_device_set *set;
    int index;
    int real;
    int clones[HS_FWD_OSES]; /* -1: no OS has this index */
    int owner;               /* OS index, or -1 */
    bool repeats;            /* EV_REP: each clone makes its own autorepeat */
    bool dropping;           /* between SYN_DROPPED and the next SYN_REPORT */
    bool touch_wait;         /* the surface was touched at take; silent until it is free */
    bool surface;            /* has contacts: a touchpad, a touchscreen, a tablet */
    bool stick;              /* has axes that rest somewhere: a joystick, a gamepad */
    bool gone;
    bool watched;               /* no clones: only its hotkey counts */
    bool deaf;                  /* watched, and somebody else has grabbed it: see hs_device_look */
    unsigned slots;             /* contacts the device can tell apart; 0: not a slotted device */
    int32_t slot;               /* the slot the hardware speaks of */
    int32_t tracking[HS_SLOTS]; /* its contacts' ids, -1: none */
    bool live[HS_SLOTS];        /* contacts the owner follows */
    int32_t clone_slot[HS_FWD_OSES];
    uint8_t keybits[HS_KEY_BYTES];
    uint8_t absbits[HS_ABS_BYTES];
    uint32_t ledbits, swbits;
    struct hs_ff *ff;                        /* NULL: no force feedback */
    uint8_t physical[HS_KEY_BYTES];          /* down on the hardware */
    uint8_t down[HS_FWD_OSES][HS_KEY_BYTES]; /* down for the OS */
    uint8_t carried[HS_KEY_BYTES];           /* modifiers the last owner held when it lost it */
    uint32_t leds[HS_FWD_OSES];
    int32_t sound[HS_FWD_OSES][SND_CNT]; /* what it has set, 0: silent */
    uint32_t first_leds;                 /* as found; set again when the device is let go */
    struct hs_chord *chord;              /* its hotkey, in the set; NULL: none */
    unsigned n_in;
    struct input_event in[HS_FRAME];
    struct hs_fwd_stats stats;
};

/* Read what the device can do and how it is now. clones: NULL if it is only watched. Descriptors
 * that are no evdev nodes (a test's sockets) count as a device that tells nothing. */
void hs_device_init(struct hs_device *d, struct hs_device_set *set, int index, int real,
                    const int *clones);
/* Read once and handle what came. 0: nothing more waits; 1: more may wait; -ENODEV: unplugged. */
int hs_device_read(struct hs_device *d);
/* Give it a hotkey, n = 0: none. At most HS_CHORD_KEYS keys. */
void hs_device_chord(struct hs_device *d, const uint16_t *codes, unsigned n);
/* Of a watched device: a program that has grabbed the node (EVIOCGRAB) has all of its events, but
 * the kernel's record of what is down is everybody's (EVIOCGKEY). What the events have not told,
 * that tells, as if it had been read. */
void hs_device_look(struct hs_device *d);
/* Handle all that waits on the hardware now. */
void hs_device_drain(struct hs_device *d);
void hs_device_release(struct hs_device *d);
void hs_device_take(struct hs_device *d, int os);
/* An OS has this clone now, and nothing that the one before it with its index had set; -1: no OS
 * has the index. It owns nothing. */
void hs_device_join(struct hs_device *d, int os, int clone);
/* Before the descriptors go: release, and the LEDs as they were found. */
void hs_device_fini(struct hs_device *d);

#endif
