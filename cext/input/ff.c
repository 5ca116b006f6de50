// SPDX-License-Identifier: Apache-2.0
/* The effects of each OS, uploaded to its clone, put on the hardware and taken off it; the contract
 * is in input/ff.h. */
#define _GNU_SOURCE
#include "input/ff.h"
#include "input/forward.h"

#include <errno.h>
#include <linux/uinput.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FULL_GAIN 0xffff /* what drivers start with */

struct effect {
    bool set;
    int16_t real_id; /* on the hardware; -1: not there */
    struct ff_effect effect;
};

struct hs_ff {
    struct {
        struct effect effects[FF_MAX_EFFECTS];
        bool has_gain, has_autocenter;
        int32_t gain, autocenter;
    } os[HS_FWD_OSES];
};

struct hs_ff *hs_ff_new(void) {
    return calloc(1, sizeof(struct hs_ff));
}

void hs_ff_free(struct hs_ff *ff) {
    free(ff);
}

static int put_on(struct effect *e, int real) {
    struct ff_effect copy = e->effect;

    copy.id = e->real_id;
    if (ioctl(real, EVIOCSFF, &copy) < 0)
        return -errno;
    e->real_id = copy.id;
    return 0;
}

static int take_off(struct effect *e, int real) {
    int id = e->real_id;

    e->real_id = -1;
    if (id >= 0 && real >= 0 && ioctl(real, EVIOCRMFF, (long)id) < 0)
        return -errno;
    return 0;
}

static void set(int real, unsigned code, int32_t value) {
    struct input_event ev[2] = {
        {.type = EV_FF, .code = (uint16_t)code, .value = value},
        {.type = EV_SYN, .code = SYN_REPORT},
    };

    (void)!write(real, ev, sizeof(ev)); /* ENODEV: the device's end is noticed where it is read */
}

static int upload(struct hs_ff *ff, unsigned os, int real, const struct ff_effect *effect) {
    struct effect *e;

    if (effect->id < 0 || effect->id >= FF_MAX_EFFECTS)
        return -EINVAL;
    if (effect->type == FF_PERIODIC && effect->u.periodic.waveform == FF_CUSTOM)
        return -EINVAL; /* its samples are in the memory of a process that is not ours */
    e = &ff->os[os].effects[effect->id];
    if (!e->set)
        e->real_id = -1;
    e->set = true;
    e->effect = *effect;
    return real >= 0 ? put_on(e, real) : 0;
}

static void answer_upload(struct hs_ff *ff, unsigned os, int clone, int real, int32_t request) {
    struct uinput_ff_upload up = {.request_id = (uint32_t)request};

    if (ioctl(clone, UI_BEGIN_FF_UPLOAD, &up) < 0)
        return;
    up.retval = upload(ff, os, real, &up.effect);
    ioctl(clone, UI_END_FF_UPLOAD, &up);
}

static void answer_erase(struct hs_ff *ff, unsigned os, int clone, int real, int32_t request) {
    struct uinput_ff_erase er = {.request_id = (uint32_t)request};

    if (ioctl(clone, UI_BEGIN_FF_ERASE, &er) < 0)
        return;
    er.retval = 0;
    if (er.effect_id < FF_MAX_EFFECTS && ff->os[os].effects[er.effect_id].set) {
        ff->os[os].effects[er.effect_id].set = false;
        er.retval = take_off(&ff->os[os].effects[er.effect_id], real);
    }
    ioctl(clone, UI_END_FF_ERASE, &er);
}

bool hs_ff_event(struct hs_ff *ff, unsigned os, int clone, int real, const struct input_event *e) {
    if (e->type == EV_UINPUT && e->code == UI_FF_UPLOAD) {
        answer_upload(ff, os, clone, real, e->value);
    } else if (e->type == EV_UINPUT && e->code == UI_FF_ERASE) {
        answer_erase(ff, os, clone, real, e->value);
    } else if (e->type != EV_FF) {
        return false;
    } else if (e->code == FF_GAIN || e->code == FF_AUTOCENTER) {
        if (e->code == FF_GAIN) {
            ff->os[os].has_gain = true;
            ff->os[os].gain = e->value;
        } else {
            ff->os[os].has_autocenter = true;
            ff->os[os].autocenter = e->value;
        }
        if (real >= 0)
            set(real, e->code, e->value);
    } else if (e->code < FF_MAX_EFFECTS && real >= 0 && ff->os[os].effects[e->code].set &&
               ff->os[os].effects[e->code].real_id >= 0) {
        set(real, (unsigned)ff->os[os].effects[e->code].real_id, e->value);
    }
    return true;
}

void hs_ff_release(struct hs_ff *ff, unsigned os, int real) {
    for (unsigned i = 0; i < FF_MAX_EFFECTS; i++)
        if (ff->os[os].effects[i].set)
            take_off(&ff->os[os].effects[i], real);
    if (ff->os[os].has_gain) /* the next OS may never have set one, and has full gain then */
        set(real, FF_GAIN, FULL_GAIN);
    if (ff->os[os].has_autocenter)
        set(real, FF_AUTOCENTER, 0);
}

void hs_ff_forget(struct hs_ff *ff, unsigned os) {
    memset(&ff->os[os], 0, sizeof(ff->os[os]));
}

void hs_ff_take(struct hs_ff *ff, unsigned os, int real) {
    for (unsigned i = 0; i < FF_MAX_EFFECTS; i++)
        if (ff->os[os].effects[i].set)
            put_on(&ff->os[os].effects[i], real);
    if (ff->os[os].has_gain)
        set(real, FF_GAIN, ff->os[os].gain);
    if (ff->os[os].has_autocenter)
        set(real, FF_AUTOCENTER, ff->os[os].autocenter);
}
