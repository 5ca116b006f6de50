// SPDX-License-Identifier: Apache-2.0
/* One device of the input forwarder: which of its events the owner gets, and in which form; the
 * state is in input/device.h, the rules in input/forward.h. */
#define _GNU_SOURCE
#include "input/device.h"
#include "input/feedback.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BATCH 64          /* events of one read */
#define FEEDBACK_READS 16 /* the kernel keeps 16 events of a clone's feedback */
#define DRAIN_READS 256   /* a device that never falls silent does not hold a flip up */

struct out {
    unsigned n;
    struct input_event ev[HS_FRAME + 8];
};

enum fate { SEND, SUPPRESS };

static void put(struct out *o, unsigned type, unsigned code, int32_t value) {
    hs_put(o->ev, &o->n, HS_FRAME, type, code, value);
}

/* Close the frame and hand it to the OS's clone; uinput takes many events in one write. */
static bool emit(struct hs_device *d, int os, struct out *o) {
    ssize_t size;

    if (o->n == 0)
        return true;
    o->ev[o->n++] = (struct input_event){.type = EV_SYN, .code = SYN_REPORT};
    size = (ssize_t)(o->n * sizeof(o->ev[0]));
    o->n = 0;
    return write(d->clones[os], o->ev, (size_t)size) == size;
}

static bool is_contact(unsigned code) {
    return code >= BTN_DIGI && code < BTN_WHEEL;
}

static bool is_slotted(const struct hs_device *d, unsigned code) {
    return d->slots > 0 && code > ABS_MT_SLOT && code <= ABS_MT_TOOL_Y;
}

static bool touched(const struct hs_device *d) {
    for (unsigned i = 0; i < d->slots; i++)
        if (d->tracking[i] >= 0)
            return true;
    for (unsigned code = BTN_DIGI; code < BTN_WHEEL; code++)
        if (hs_bit(d->physical, code))
            return true;
    return false;
}

static int32_t rest_of(unsigned code, const struct input_absinfo *a) {
    bool trigger = code == ABS_Z || code == ABS_RZ || code == ABS_GAS || code == ABS_BRAKE ||
                   code == ABS_THROTTLE;

    if (trigger && a->minimum >= 0)
        return a->minimum;
    return (int32_t)(((int64_t)a->minimum + a->maximum + 1) / 2);
}

/* ---- the hotkey ---------------------------------------------------------------------------- */

/* Whole: what the owner has of its keys was meant for no OS, on whichever device it is. */
static void take_back(struct hs_device_set *set, const struct hs_chord *chord) {
    for (unsigned i = 0; i < HS_FWD_DEVICES; i++) {
        struct hs_device *d = set->device[i];
        struct out o = {0};

        if (!d || d->chord != chord || d->owner < 0)
            continue;
        for (unsigned k = 0; k < chord->n; k++)
            if (hs_bit(d->down[d->owner], chord->code[k])) {
                put(&o, EV_KEY, chord->code[k], 0);
                hs_bit_set(d->down[d->owner], chord->code[k], false);
            }
        if (!emit(d, d->owner, &o))
            d->stats.failed++;
    }
}

static void leave_chord(struct hs_device *d) {
    struct hs_chord *chord = d->chord;

    d->chord = NULL;
    if (!chord)
        return;
    hs_chord_gone(chord, (uint32_t)d->index);
    for (unsigned i = 0; i < HS_FWD_DEVICES; i++)
        if (d->set->device[i] && d->set->device[i]->chord == chord)
            return;
    hs_chord_set(chord, NULL, 0);
}

void hs_device_chord(struct hs_device *d, const uint16_t *codes, unsigned n) {
    struct hs_chord *chords = d->set->chord;
    unsigned i = 0;

    leave_chord(d);
    if (n == 0)
        return;
    while (i < HS_FWD_DEVICES && !hs_chord_is(&chords[i], codes, n))
        i++;
    if (i == HS_FWD_DEVICES) { /* there is a free one: each device has one at most */
        for (i = 0; chords[i].n > 0; i++)
            ;
        hs_chord_set(&chords[i], codes, n);
    }
    d->chord = &chords[i];
    for (unsigned k = 0; k < n; k++)
        hs_chord_key(d->chord, (uint32_t)d->index, codes[k], hs_bit(d->physical, codes[k]));
}

/* ---- a frame ------------------------------------------------------------------------------- */

/* What the hardware does, whoever owns it. Whether that completes the hotkey. */
static bool observe(struct hs_device *d, const struct input_event *e) {
    bool whole = false;

    if (e->type == EV_KEY && e->code < KEY_CNT && e->value != 2) {
        hs_bit_set(d->physical, e->code, e->value != 0);
        whole = d->chord && hs_chord_key(d->chord, (uint32_t)d->index, e->code, e->value != 0);
    }
    if (e->type != EV_ABS || d->slots == 0)
        return whole;
    if (e->code == ABS_MT_SLOT && e->value >= 0 && e->value < (int32_t)d->slots)
        d->slot = e->value;
    if (e->code == ABS_MT_TRACKING_ID)
        d->tracking[d->slot] = e->value;
    return whole;
}

static enum fate key_fate(struct hs_device *d, const struct input_event *e) {
    uint8_t *down = d->down[d->owner];

    if (e->code >= KEY_CNT || (d->touch_wait && is_contact(e->code)))
        return SUPPRESS;
    if (e->value == 2)
        return d->repeats || !hs_bit(down, e->code) ? SUPPRESS : SEND;
    if (e->value == 0 && !hs_bit(down, e->code))
        return SUPPRESS;
    hs_bit_set(down, e->code, e->value != 0);
    return SEND;
}

static enum fate abs_fate(struct hs_device *d, const struct input_event *e) {
    if (d->touch_wait)
        return SUPPRESS;
    if (e->code == ABS_MT_TRACKING_ID && d->slots > 0) {
        bool was = d->live[d->slot];

        d->live[d->slot] = e->value >= 0;
        return e->value < 0 && !was ? SUPPRESS : SEND;
    }
    return SEND;
}

static enum fate fate_of(struct hs_device *d, const struct input_event *e) {
    switch (e->type) {
    case EV_KEY:
        return key_fate(d, e);
    case EV_ABS:
        return abs_fate(d, e);
    case EV_SYN: /* SYN_MT_REPORT */
        return d->touch_wait ? SUPPRESS : SEND;
    case EV_LED: /* echoes of what was set on the device */
    case EV_SND:
    case EV_REP:
    case EV_FF:
        return SUPPRESS;
    default:
        return SEND;
    }
}

/* Into the owner's frame. A slot is said only before what belongs to it, and only if the clone is
 * in another one: the owner before may have left it anywhere. */
static void put_in_slot(struct hs_device *d, struct out *o, const struct input_event *e) {
    int32_t *clone_slot = &d->clone_slot[d->owner];

    if (d->slots > 0 && e->type == EV_ABS && e->code == ABS_MT_SLOT)
        return;
    if (e->type == EV_ABS && is_slotted(d, e->code) && *clone_slot != d->slot) {
        put(o, EV_ABS, ABS_MT_SLOT, d->slot);
        *clone_slot = d->slot;
    }
    put(o, e->type, e->code, e->value);
}

/* What has become of the events of a frame, until it is sent. */
struct fates {
    uint64_t sent, scans, kept;
};

/* Send what there is of the owner's frame. Scan codes go with their key: of those alone whose keys
 * were all kept from it, the owner gets none. */
static void finish(struct hs_device *d, struct out *o, struct fates *n) {
    if (n->sent == 0 && n->kept > 0)
        d->stats.suppressed += n->scans;
    else if (emit(d, d->owner, o))
        d->stats.forwarded += n->sent + n->scans;
    else
        d->stats.failed += n->sent + n->scans;
    o->n = 0;
    *n = (struct fates){0};
}

static void frame(struct hs_device *d) {
    struct out o = {0};
    struct fates n = {0};

    for (unsigned i = 0; i < d->n_in; i++) {
        const struct input_event *e = &d->in[i];
        bool hotkey = observe(d, e);

        d->stats.events++;
        if (hotkey) {
            if (n.sent > 0)
                finish(d, &o, &n); /* the owner has it before it is taken back */
            take_back(d->set, d->chord);
            d->set->notice(d->set, HS_FWD_CHORD_PRESSED, d->index);
        }
        if (d->owner < 0)
            d->stats.unowned++;
        else if (hotkey) {
            d->stats.chord++;
            n.kept++;
        } else if (e->type == EV_MSC) {
            put(&o, e->type, e->code, e->value);
            n.scans++;
        } else if (fate_of(d, e) == SEND) {
            put_in_slot(d, &o, e);
            n.sent++;
        } else {
            d->stats.suppressed++;
            n.kept++;
        }
    }
    d->n_in = 0;
    if (d->owner < 0)
        return;
    finish(d, &o, &n);
    if (d->touch_wait && !touched(d))
        d->touch_wait = false;
}

static void add_event(struct hs_device *d, unsigned type, unsigned code, int32_t value) {
    if (d->n_in == HS_FRAME)
        frame(d);
    hs_put(d->in, &d->n_in, HS_FRAME, type, code, value);
}

/* ---- how the hardware is now --------------------------------------------------------------- */

/* Axes and switches as they are, into a frame for the owner. */
static void put_positions(struct hs_device *d, struct out *o) {
    uint8_t switches[(SW_CNT + 7) / 8] = {0};

    for (unsigned code = 0; code < ABS_MT_SLOT && !d->touch_wait; code++) {
        struct input_absinfo a;

        if (hs_bit(d->absbits, code) && ioctl(d->real, EVIOCGABS(code), &a) >= 0)
            put(o, EV_ABS, code, a.value);
    }
    if (d->swbits && ioctl(d->real, EVIOCGSW(sizeof(switches)), switches) >= 0)
        for (unsigned code = 0; code < SW_CNT; code++)
            if (d->swbits >> code & 1)
                put(o, EV_SW, code, hs_bit(switches, code));
}

/* Into the frame, releases first, what the kernel's record of keys has and we do not. Whether there
 * is any. */
static bool look_at_keys(struct hs_device *d) {
    uint8_t keys[HS_KEY_BYTES];
    bool found = false;

    if (ioctl(d->real, EVIOCGKEY(sizeof(keys)), keys) < 0)
        return false;
    for (int pressed = 0; pressed < 2; pressed++)
        for (unsigned k = 0; k < KEY_CNT; k++)
            if (hs_bit(keys, k) == pressed && hs_bit(d->physical, k) != pressed) {
                add_event(d, EV_KEY, k, pressed);
                found = true;
            }
    return found;
}

static void resync(struct hs_device *d) {
    int32_t ids[HS_SLOTS];
    struct input_absinfo a;
    struct out o = {0};

    d->stats.resyncs++;
    look_at_keys(d);
    hs_slots(d->real, ids);
    for (unsigned i = 0; i < d->slots; i++)
        if (ids[i] != d->tracking[i]) {
            add_event(d, EV_ABS, ABS_MT_SLOT, (int32_t)i);
            if (ids[i] >= 0 && d->tracking[i] >= 0)
                add_event(d, EV_ABS, ABS_MT_TRACKING_ID, -1);
            add_event(d, EV_ABS, ABS_MT_TRACKING_ID, ids[i]);
        }
    frame(d);
    if (d->slots > 0 && ioctl(d->real, EVIOCGABS(ABS_MT_SLOT), &a) >= 0 && a.value >= 0 &&
        a.value < (int32_t)d->slots)
        d->slot = a.value;
    if (d->owner >= 0) {
        put_positions(d, &o);
        if (!emit(d, d->owner, &o))
            d->stats.failed++;
    }
}

/* ---- the calls ----------------------------------------------------------------------------- */

int hs_device_read(struct hs_device *d) {
    struct input_event ev[BATCH];
    ssize_t size;

    size = read(d->real, ev, sizeof(ev));
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ENODEV;
    if (size == 0)
        return -ENODEV;
    d->deaf = false;
    for (size_t i = 0; i < (size_t)size / sizeof(ev[0]); i++) {
        if (ev[i].type == EV_SYN && ev[i].code == SYN_DROPPED) {
            d->dropping = true;
            d->n_in = 0;
        } else if (ev[i].type == EV_SYN && ev[i].code == SYN_REPORT) {
            if (d->dropping) {
                d->dropping = false;
                d->n_in = 0;
                resync(d);
            } else
                frame(d);
        } else if (d->dropping) {
            continue;
        } else if (d->n_in == HS_FRAME) {
            d->stats.events += HS_FRAME + 1;
            d->stats.overflow += HS_FRAME + 1;
            d->dropping = true;
            d->n_in = 0;
        } else
            d->in[d->n_in++] = ev[i];
    }
    return 1;
}

void hs_device_look(struct hs_device *d) {
    hs_device_drain(d);
    if (!look_at_keys(d))
        return;
    d->deaf = true; /* until an event comes */
    frame(d);
}

void hs_device_drain(struct hs_device *d) {
    for (unsigned i = 0; i < DRAIN_READS && hs_device_read(d) > 0; i++)
        ;
    if (d->n_in > 0)
        frame(d); /* the half of a frame that is here belongs with what came before */
}

static void lift_touches(struct hs_device *d, struct out *o) {
    for (unsigned i = 0; i < d->slots; i++)
        if (d->live[i]) {
            put(o, EV_ABS, ABS_MT_SLOT, (int32_t)i);
            put(o, EV_ABS, ABS_MT_TRACKING_ID, -1);
            d->clone_slot[d->owner] = (int32_t)i;
            d->live[i] = false;
        }
}

static void rest_axes(struct hs_device *d, struct out *o) {
    for (unsigned code = 0; d->stick && code <= ABS_HAT3Y; code++) {
        struct input_absinfo a;

        if (hs_bit(d->absbits, code) && ioctl(d->real, EVIOCGABS(code), &a) >= 0)
            put(o, EV_ABS, code, rest_of(code, &a));
    }
}

static const uint16_t modifiers[] = {
    KEY_LEFTSHIFT, KEY_RIGHTSHIFT, KEY_LEFTCTRL, KEY_RIGHTCTRL,
    KEY_LEFTALT,   KEY_RIGHTALT,   KEY_LEFTMETA, KEY_RIGHTMETA,
};

/* What the owner holds and the next one is to hold too. Keys of a hotkey that is down asked for the
 * flip, and are meant for no OS. */
static void note_carried(struct hs_device *d) {
    bool chord = d->chord && hs_chord_whole(d->chord);

    memset(d->carried, 0, sizeof(d->carried));
    for (unsigned i = 0; d->set->carry && i < sizeof(modifiers) / sizeof(modifiers[0]); i++)
        if (hs_bit(d->down[d->owner], modifiers[i]) &&
            !(chord && hs_chord_has(d->chord, modifiers[i])))
            hs_bit_set(d->carried, modifiers[i], true);
}

static void press_carried(struct hs_device *d, struct out *o) {
    for (unsigned i = 0; i < sizeof(modifiers) / sizeof(modifiers[0]); i++)
        if (hs_bit(d->carried, modifiers[i]) && hs_bit(d->physical, modifiers[i])) {
            put(o, EV_KEY, modifiers[i], 1);
            hs_bit_set(d->down[d->owner], modifiers[i], true);
        }
    memset(d->carried, 0, sizeof(d->carried));
}

/* What its OS has told a clone until now: not what it goes on to tell, which may have no end. */
static void drain_feedback(struct hs_device *d, int os) {
    for (unsigned i = 0; i < FEEDBACK_READS && hs_feedback_read(d, os) > 0; i++)
        ;
}

void hs_device_release(struct hs_device *d) {
    struct out o = {0};
    int os = d->owner;

    if (os < 0)
        return;
    hs_device_drain(d);
    note_carried(d);
    lift_touches(d, &o);
    for (unsigned k = 0; k < KEY_CNT; k++) {
        if (!hs_bit(d->down[os], k))
            continue;
        put(&o, EV_KEY, k, 0);
        if (o.n >= HS_FRAME && !emit(d, os, &o))
            d->stats.failed++;
    }
    rest_axes(d, &o);
    if (!emit(d, os, &o))
        d->stats.failed++;
    memset(d->down[os], 0, sizeof(d->down[os]));
    drain_feedback(d, os); /* the LEDs it set until now are its own */
    hs_feedback_sounds(d, os, false);
    if (d->ff)
        hs_ff_release(d->ff, (unsigned)os, d->real);
    d->owner = -1;
}

void hs_device_take(struct hs_device *d, int os) {
    struct out o = {0};

    hs_device_drain(d);
    drain_feedback(d, os); /* while it is in the background: it is set below, once */
    d->owner = os;
    d->touch_wait = touched(d);
    put_positions(d, &o);
    press_carried(d, &o);
    if (!emit(d, os, &o))
        d->stats.failed++;
    hs_feedback_leds(d, d->leds[os]);
    hs_feedback_sounds(d, os, true);
    if (d->ff)
        hs_ff_take(d->ff, (unsigned)os, d->real);
}

void hs_device_join(struct hs_device *d, int os, int clone) {
    d->clones[os] = clone;
    d->clone_slot[os] = 0;
    d->leds[os] = 0;
    memset(d->down[os], 0, sizeof(d->down[os]));
    memset(d->sound[os], 0, sizeof(d->sound[os]));
    if (d->ff)
        hs_ff_forget(d->ff, (unsigned)os);
}

void hs_device_fini(struct hs_device *d) {
    hs_device_release(d);
    leave_chord(d);
    if (!d->watched) /* else it is another's */
        hs_feedback_leds(d, d->first_leds);
    hs_ff_free(d->ff);
}
