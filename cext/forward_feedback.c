/* See forward_feedback.h. */
#define _GNU_SOURCE
#include "forward_feedback.h"

#include <errno.h>
#include <unistd.h>

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

bool hs_feedback_sound(struct hs_device *d, unsigned code, int32_t value) {
    struct input_event ev[2] = {
        {.type = EV_SND, .code = (uint16_t)code, .value = value},
        {.type = EV_SYN, .code = SYN_REPORT},
    };

    return write(d->real, ev, sizeof(ev)) == (ssize_t)sizeof(ev);
}

void hs_feedback_sounds(struct hs_device *d, int os, bool on) {
    for (unsigned code = 0; code < SND_CNT; code++)
        if (d->sound[os][code] != 0)
            (void)hs_feedback_sound(d, code, on ? d->sound[os][code] : 0);
}
