// SPDX-License-Identifier: Apache-2.0
/* The input forwarder: moves whole evdev frames from real devices to the clone of the foreground
 * OS, on threads of its own (Linux input protocol: Documentation/input/event-codes.rst,
 * multi-touch-protocol.rst, uinput.rst).
 *
 * A device has one real evdev descriptor and, for each OS (index 0..oses-1), one uinput
 * descriptor, or none while no OS has this index. All descriptors stay the caller's, are
 * non-blocking, and must live until hs_fwd_remove has returned. Each device has at most one owner;
 * a frame (the events up to SYN_REPORT) goes to the owner's clone only, or, if nobody owns the
 * device, nowhere.
 *
 * One mutex holds the whole state. A thread takes it for one bounded batch of reads; release
 * and take hold it while they work. So when hs_fwd_release returns, no event reaches the old
 * owner any more; nothing between threads rests on atomics.
 *
 * What an OS sees:
 *  - at release: what was queued on the real device, then a release for each key it holds, and a
 *    lifted contact for each touch it follows;
 *  - at take: the positions of axes and switches as they are; keys that are physically down are
 *    not pressed, and their autorepeat and release are kept from it; a surface that is being
 *    touched stays silent until every contact has left it;
 *  - with hs_fwd_carry, at take: a press of each modifier that the owner before held, and that is
 *    still down; its release when it is let go. The hotkey's own keys are not carried;
 *  - after an overflow (SYN_DROPPED): the difference between what it knew and what is so;
 *  - autorepeat of its clone's own making (the clone has a repeat timer of its own).
 * LEDs and sounds that an OS sets are kept for each OS; the owner's are on the real device. A bell
 * or tone that sounds when an OS loses the device is silent until the OS has it again.
 *
 * A hotkey holds nothing back: see input/chord.h. The press that completes it is swallowed, and
 * what the owner has of its keys is taken back. Its keys may be on several devices that have the
 * same hotkey, watched ones among them. One that another program has grabbed is looked at instead:
 * then the keys are to be down together for some 100 ms.
 *
 * Every function returns 0 or a value >= 0, or a negative errno. */
#ifndef HS_FORWARD_H
#define HS_FORWARD_H
#include <stdint.h>

#define HS_FWD_OSES 16    /* most OSes */
#define HS_FWD_DEVICES 64 /* most devices */
#define HS_FWD_CHORD 8    /* most keys of a hotkey */
#define HS_FWD_ALL (-1)   /* in place of a device: every device */

enum hs_fwd_notice_type {
    HS_FWD_CHORD_PRESSED = 1, /* the hotkey of `device` */
    HS_FWD_GONE = 2,          /* `device` was unplugged; remove it */
};

struct hs_fwd_notice {
    uint32_t type;
    int32_t device;
};
_Static_assert(sizeof(struct hs_fwd_notice) == 8, "struct hs_fwd_notice");

/* Counts of one device since it was added. events = forwarded + unowned + suppressed + chord +
 * overflow + failed, if no SYN_DROPPED came. */
struct hs_fwd_stats {
    uint64_t events;     /* read from the real device, SYN_REPORT not counted */
    uint64_t forwarded;  /* written to the owner's clone */
    uint64_t unowned;    /* came while no OS had the device */
    uint64_t suppressed; /* of keys not pressed for the owner; repeats; touches not its own */
    uint64_t chord;      /* swallowed with the hotkey */
    uint64_t overflow;   /* over the length of a frame */
    uint64_t failed;     /* the clone did not take them */
    uint64_t resyncs;    /* SYN_DROPPED: the kernel lost events before they got here */
    uint64_t feedback;   /* LED, sound changes applied to the real device */
};
_Static_assert(sizeof(struct hs_fwd_stats) == 72, "struct hs_fwd_stats");

struct hs_fwd;

/* Start a forwarder for `oses` OSes. EINVAL: none or more than HS_FWD_OSES. */
int hs_fwd_new(struct hs_fwd **out, unsigned oses);
/* Stop the threads and free. Devices still there are released first. NULL is allowed. */
void hs_fwd_free(struct hs_fwd *f);

/* Readable when a notice waits. The forwarder's own. */
int hs_fwd_fileno(const struct hs_fwd *f);
/* Take one notice; 0: there is none. */
int hs_fwd_notice(struct hs_fwd *f, struct hs_fwd_notice *out);

/* Add a device, owned by nobody. clones: one descriptor for each OS, -1: none has this index; NULL:
 * the device is only watched for its hotkey, of which nothing can be swallowed then, and never
 * owned. The device's index. */
int hs_fwd_add(struct hs_fwd *f, int real, const int *clones);
/* OS `os` has a clone of the device from now on, and has set and pressed nothing. EEXIST: it has
 * one. EINVAL: the device is only watched, or there is no such index. ENOENT: no such device. */
int hs_fwd_join(struct hs_fwd *f, int device, int os, int clone);
/* Let go of the OS's clone; one that has none is no error. EBUSY: it owns the device. */
int hs_fwd_leave(struct hs_fwd *f, int device, int os);
/* Release and forget it. ENOENT: no such device. */
int hs_fwd_remove(struct hs_fwd *f, int device);
/* Which keys, pressed together, are the hotkey (EV_KEY codes); n = 0: none. */
int hs_fwd_chord(struct hs_fwd *f, int device, const uint16_t *codes, unsigned n);

/* Whether modifiers (Shift, Ctrl, Alt, Meta) that are held go from one owner to the next. */
void hs_fwd_carry(struct hs_fwd *f, int on);

/* Take the device from its owner (nothing if it has none). */
int hs_fwd_release(struct hs_fwd *f, int device);
/* Give it to an OS. EBUSY: another one owns it; ENOENT: the OS has no clone of it. Then nothing is
 * changed for that device. */
int hs_fwd_take(struct hs_fwd *f, int device, int os);

int hs_fwd_stats(struct hs_fwd *f, int device, struct hs_fwd_stats *out);
/* The OS's LEDs as a bit set by LED code, and how many keys it holds now. */
int hs_fwd_os_state(struct hs_fwd *f, int device, int os, uint32_t *leds, uint32_t *held);

#endif
