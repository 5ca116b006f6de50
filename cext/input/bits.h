// SPDX-License-Identifier: Apache-2.0
/* Small things that evdev asks for again and again: bits in its bit maps, contacts in its slots
 * (linux/input.h: EVIOCGKEY, EVIOCGBIT, EVIOCGMTSLOTS). */
#ifndef HS_BITS_H
#define HS_BITS_H
#include <linux/input.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#define HS_SLOTS 64 /* most contacts of a touch surface that are looked at */
#define HS_KEY_BYTES ((KEY_CNT + 7) / 8)
#define HS_ABS_BYTES ((ABS_CNT + 7) / 8)

static inline bool hs_bit(const uint8_t *bits, unsigned n) {
    return bits[n / 8] >> (n % 8) & 1;
}

static inline void hs_bit_set(uint8_t *bits, unsigned n, bool value) {
    if (value)
        bits[n / 8] |= (uint8_t)(1u << (n % 8));
    else
        bits[n / 8] &= (uint8_t) ~(1u << (n % 8));
}

/* Append an event to `n` others in an array of `room`; one too many is left out. */
static inline void hs_put(struct input_event *ev, unsigned *n, unsigned room, unsigned type,
                          unsigned code, int32_t value) {
    if (*n < room)
        ev[(*n)++] =
            (struct input_event){.type = (uint16_t)type, .code = (uint16_t)code, .value = value};
}

/* The tracking id of the contact in each slot; -1: none, or no such slot, or no slots at all. */
static inline void hs_slots(int fd, int32_t ids[HS_SLOTS]) {
    struct {
        uint32_t code;
        int32_t id[HS_SLOTS];
    } request = {.code = ABS_MT_TRACKING_ID};

    memset(request.id, 0xff, sizeof(request.id));
    if (ioctl(fd, EVIOCGMTSLOTS(sizeof(request)), &request) < 0)
        memset(request.id, 0xff, sizeof(request.id));
    memcpy(ids, request.id, sizeof(request.id));
}

#endif
