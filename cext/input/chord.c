// SPDX-License-Identifier: Apache-2.0
/* Which keys of a hotkey are down, as one word of devices for each; the contract is in
 * input/chord.h. */
#include "input/chord.h"

#include <string.h>

/* Which of its keys; n: none. */
static uint32_t which(const struct hs_chord *c, uint16_t code) {
    uint32_t i = 0;

    while (i < c->n && c->code[i] != code)
        i++;
    return i;
}

void hs_chord_set(struct hs_chord *c, const uint16_t *codes, uint32_t n) {
    memset(c, 0, sizeof(*c));
    c->n = n < HS_CHORD_KEYS ? n : HS_CHORD_KEYS;
    if (c->n > 0)
        memcpy(c->code, codes, c->n * sizeof(*codes));
}

bool hs_chord_is(const struct hs_chord *c, const uint16_t *codes, uint32_t n) {
    if (c->n != n)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (which(c, codes[i]) == c->n)
            return false;
    return true;
}

bool hs_chord_has(const struct hs_chord *c, uint16_t code) {
    return which(c, code) < c->n;
}

bool hs_chord_whole(const struct hs_chord *c) {
    for (uint32_t i = 0; i < c->n; i++)
        if (c->down[i] == 0)
            return false;
    return c->n > 0;
}

bool hs_chord_key(struct hs_chord *c, uint32_t device, uint16_t code, bool down) {
    uint32_t i = which(c, code);
    bool before;

    if (i == c->n || device >= HS_CHORD_DEVICES)
        return false;
    before = hs_chord_whole(c);
    if (down)
        c->down[i] |= UINT64_C(1) << device;
    else
        c->down[i] &= ~(UINT64_C(1) << device);
    return !before && hs_chord_whole(c);
}

void hs_chord_gone(struct hs_chord *c, uint32_t device) {
    for (uint32_t i = 0; i < c->n && device < HS_CHORD_DEVICES; i++)
        c->down[i] &= ~(UINT64_C(1) << device);
}
