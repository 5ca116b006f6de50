// SPDX-License-Identifier: Apache-2.0
/* What a device of the input forwarder can do, and how it is when it comes: hs_device_init of
 * input/device.h. */
#define _GNU_SOURCE
#include "input/device.h"

#include <string.h>
#include <sys/ioctl.h>

static uint32_t low_bits(int fd, unsigned type) {
    uint8_t bytes[64] = {0};
    uint32_t out = 0;

    if (ioctl(fd, EVIOCGBIT(type, sizeof(bytes)), bytes) >= 0)
        for (unsigned i = 0; i < 32; i++)
            out |= (uint32_t)hs_bit(bytes, i) << i;
    return out;
}

void hs_device_init(struct hs_device *d, struct hs_device_set *set, int index, int real,
                    const int *clones) {
    uint8_t leds[(LED_CNT + 7) / 8] = {0};
    struct input_absinfo a;

    memset(d, 0, sizeof(*d));
    d->set = set;
    d->index = index;
    d->real = real;
    d->owner = -1;
    d->watched = !clones;
    if (clones)
        memcpy(d->clones, clones, set->oses * sizeof(*clones));
    memset(d->tracking, 0xff, sizeof(d->tracking));
    d->repeats = low_bits(real, 0) >> EV_REP & 1;
    d->ledbits = low_bits(real, EV_LED);
    d->swbits = low_bits(real, EV_SW);
    if (ioctl(real, EVIOCGBIT(EV_KEY, sizeof(d->keybits)), d->keybits) < 0)
        memset(d->keybits, 0, sizeof(d->keybits));
    if (ioctl(real, EVIOCGBIT(EV_ABS, sizeof(d->absbits)), d->absbits) < 0)
        memset(d->absbits, 0, sizeof(d->absbits));
    for (unsigned k = BTN_JOYSTICK; k < BTN_DIGI; k++)
        d->stick = d->stick || hs_bit(d->keybits, k);
    if (hs_bit(d->absbits, ABS_MT_SLOT) && ioctl(real, EVIOCGABS(ABS_MT_SLOT), &a) >= 0 &&
        a.maximum >= 0) {
        d->slots = a.maximum < HS_SLOTS ? (unsigned)a.maximum + 1 : HS_SLOTS;
        d->slot = a.value >= 0 && a.value < (int32_t)d->slots ? a.value : 0;
        hs_slots(d->real, d->tracking);
    }
    if (ioctl(real, EVIOCGKEY(sizeof(d->physical)), d->physical) < 0)
        memset(d->physical, 0, sizeof(d->physical));
    if (ioctl(real, EVIOCGLED(sizeof(leds)), leds) >= 0)
        d->first_leds = (uint32_t)leds[0] | (uint32_t)leds[1] << 8;
    if (low_bits(real, 0) >> EV_FF & 1)
        d->ff = hs_ff_new(); /* without the memory: no effects, all else works */
}
