/* One device of the input forwarder: what is pressed, touched and lit, for the hardware and for
 * each OS, and what of a frame its owner gets. Not part of the interface: input/forward.c locks and
 * calls. See input/forward.h for the rules. */
#ifndef HS_FORWARD_DEVICE_H
#define HS_FORWARD_DEVICE_H
#include "input/forward.h"
#include "input/bits.h"
#include "input/ff.h"

#include <stddef.h>

#define HS_FRAME 256 /* most events of a frame; what is longer is dropped, counted, resynced */

struct hs_device;

/* All devices of a forwarder; hosts the rule that a held-back key goes out before anything else
 * does, whichever device that comes from. */
struct hs_device_set {
    struct hs_device *device[HS_FWD_DEVICES];
    void (*notice)(struct hs_device_set *set, uint32_t type, int32_t device);
    unsigned oses;
    unsigned held_back; /* keys held back, over all devices */
    bool carry;         /* held modifiers go from owner to owner */
};

struct hs_device {
    struct hs_device_set *set;
    int index;
    int real;
    int clones[HS_FWD_OSES];
    int owner;       /* OS index, or -1 */
    bool repeats;    /* EV_REP: each clone makes its own autorepeat */
    bool dropping;   /* between SYN_DROPPED and the next SYN_REPORT */
    bool touch_wait; /* the surface was touched at take; silent until it is free */
    bool surface;    /* has contacts: a touchpad, a touchscreen, a tablet */
    bool stick;      /* has axes that rest somewhere: a joystick, a gamepad */
    bool gone;
    bool watched;               /* no clones: only its hotkey counts */
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
    uint16_t chord[HS_FWD_CHORD], back[HS_FWD_CHORD];
    unsigned n_chord, n_back; /* the hotkey; its keys that are held back, in order */
    unsigned n_in;
    struct input_event in[HS_FRAME];
    struct hs_fwd_stats stats;
};

/* Read what the device can do and how it is now. clones: NULL where it is only watched. Descriptors
 * that are no evdev nodes (a test's sockets) count as a device that tells nothing. */
void hs_device_init(struct hs_device *d, struct hs_device_set *set, int index, int real,
                    const int *clones);
/* Read once and handle what came. 0: nothing more waits; 1: more may wait; -ENODEV: unplugged. */
int hs_device_read(struct hs_device *d);
/* Handle all that waits on the hardware now. */
void hs_device_drain(struct hs_device *d);
void hs_device_release(struct hs_device *d);
void hs_device_take(struct hs_device *d, int os);
/* Before the descriptors go: release, and the LEDs as they were found. */
void hs_device_fini(struct hs_device *d);

#endif
