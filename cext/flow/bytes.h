// SPDX-License-Identifier: Apache-2.0
/* Sixteen bits in network order, in bytes anywhere. */
#ifndef HS_BYTES_H
#define HS_BYTES_H
#include <stdint.h>

static inline uint16_t hs_load16(const uint8_t *at) {
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline void hs_store16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

#endif
