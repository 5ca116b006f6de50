// SPDX-License-Identifier: Apache-2.0
/* What a walk has cost (input/spent.h): short steps count as they are, a pause of the machine as
 * one step, however long it was; so few steps never cost much, and many always do. */
#include "input/spent.h"
#include "check.h"

#include <stdbool.h>

#define SECOND INT64_C(1000000000)

int main(void) {
    uint64_t random = 11;

    for (int round = 0; round < 1000; round++) {
        int64_t own = (int64_t)(draw(&random) % (uint64_t)(100 * SECOND)), sum = 0;
        struct hs_spent spent = {.at = own};

        CHECK(hs_spent_step(&spent, own) == 0);
        for (int step = 1; step <= 100; step++) {
            int64_t took = (int64_t)(draw(&random) % HS_STEP_NS);
            bool paused = draw(&random) % 8 == 0;

            own += took + (paused ? (int64_t)(1 + draw(&random) % 10) * SECOND / 20 : 0);
            sum += paused ? HS_STEP_NS : took;
            CHECK(hs_spent_step(&spent, own) == sum);
            CHECK(hs_spent_step(&spent, own) == sum && sum <= (int64_t)step * HS_STEP_NS);
        }
    }
    CHECK(hs_own_ns() <= hs_own_ns());
    return 0;
}
