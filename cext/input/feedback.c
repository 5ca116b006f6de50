// SPDX-License-Identifier: Apache-2.0
/* LEDs, sounds and effects, from the clones to the real device; the contract is in
 * input/feedback.h. */
#define _GNU_SOURCE
#include "input/feedback.h"

#include <errno.h>
#include <unistd.h>

#define BATCH 64 /* events of one read */

void hs_feedback_leds(struct hs_device *d, uint32_t leds) {
    struct input_event ev[LED_CNT + 1];
    size_t n = 0;

    for (unsigned code = 0; code < LED_CNT; code++)
        if (d->ledbits >> code & 1)
            ev[n++] = (struct input_event){
                .type = EV_LED, .code = (uint16_t)code, .value = leds >> code & 1};
    if (n == 0)
        return;
    ev[n++] = (struct input_event){.type = EV_SYN, .code = SYN_REPORT};
    if (write(d->real, ev, n * sizeof(ev[0])) < 0 && errno != ENODEV)
        d->stats.failed++;
}

/* Whether the device took it. */
static bool set_sound(struct hs_device *d, unsigned code, int32_t value) {
    struct input_event ev[2] = {
        {.type = EV_SND, .code = (uint16_t)code, .value = value},
        {.type = EV_SYN, .code = SYN_REPORT},
    };

    return write(d->real, ev, sizeof(ev)) == (ssize_t)sizeof(ev);
}

void hs_feedback_sounds(struct hs_device *d, int os, bool on) {
    for (unsigned code = 0; code < SND_CNT; code++)
        if (d->sound[os][code] != 0)
            (void)set_sound(d, code, on ? d->sound[os][code] : 0);
}

int hs_feedback_read(struct hs_device *d, int os) {
    struct input_event ev[BATCH];
    ssize_t size;
    bool lit = false;

    size = read(d->clones[os], ev, sizeof(ev));
    if (size < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ENODEV;
    if (size == 0)
        return -ENODEV;
    for (size_t i = 0; i < (size_t)size / sizeof(ev[0]); i++) {
        if (d->ff && hs_ff_event(d->ff, (unsigned)os, d->clones[os], d->owner == os ? d->real : -1,
                                 &ev[i])) {
            d->stats.feedback += d->owner == os;
        } else if (ev[i].type == EV_LED && ev[i].code < LED_CNT) {
            if (ev[i].value)
                d->leds[os] |= 1u << ev[i].code;
            else
                d->leds[os] &= ~(1u << ev[i].code);
            lit = true;
        } else if (ev[i].type == EV_SND && ev[i].code < SND_CNT) {
            d->sound[os][ev[i].code] = ev[i].value;
            if (d->owner == os && set_sound(d, ev[i].code, ev[i].value))
                d->stats.feedback++;
        }
    }
    if (lit && d->owner == os) {
        hs_feedback_leds(d, d->leds[os]);
        d->stats.feedback++;
    }
    return 1;
}
