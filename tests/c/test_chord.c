// SPDX-License-Identifier: Apache-2.0
/* A hotkey, held against the plainest model there is: a table of which key is down on which device.
 */
#include "input/chord.h"
#include "check.h"

#include <string.h>

#define CODES 12
#define DEVICES 5

static bool down[DEVICES][CODES];

static bool whole(const uint16_t *codes, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        bool any = false;

        for (int d = 0; d < DEVICES; d++)
            any = any || down[d][codes[i]];
        if (!any)
            return false;
    }
    return n > 0;
}

int main(void) {
    uint64_t random = 7;

    for (uint32_t round = 0; round < 200; round++) {
        uint32_t n = round % (HS_CHORD_KEYS + 1), fired = 0;
        uint16_t codes[HS_CHORD_KEYS], turned[HS_CHORD_KEYS];
        struct hs_chord c;

        memset(down, 0, sizeof(down));
        for (uint32_t i = 0; i < n; i++)
            codes[i] = turned[n - 1 - i] = (uint16_t)((i + round) % CODES);
        hs_chord_set(&c, codes, n);
        CHECK(hs_chord_is(&c, turned, n));
        CHECK(!hs_chord_is(&c, turned, n + 1 <= HS_CHORD_KEYS ? n + 1 : n - 1));
        for (int step = 0; step < 1000; step++) {
            uint32_t device = (uint32_t)(draw(&random) % DEVICES);
            uint16_t code = (uint16_t)(draw(&random) % CODES);
            bool before = whole(codes, n), press = draw(&random) % 2, fires = false;

            if (draw(&random) % 100 == 0) {
                hs_chord_gone(&c, device);
                memset(down[device], 0, sizeof(down[device]));
            } else {
                down[device][code] = press;
                fires = hs_chord_key(&c, device, code, press);
            }
            CHECK(fires == (!before && whole(codes, n)));
            CHECK(hs_chord_whole(&c) == whole(codes, n));
            fired += fires;
        }
        CHECK(n == 0 || n > 4 || fired > 0);
    }
    return 0;
}
