// SPDX-License-Identifier: Apache-2.0
/* See flow/parse.h. This file: the walk over the headers to the tuple. */
#include "flow/parse.h"
#include "flow/bytes.h"

#include <string.h>

int hs_flow_parse(const uint8_t *frame, uint32_t len, struct hs_tuple *tuple) {
    const uint8_t *ip = frame + 14, *l4;
    uint32_t left;

    if (len < 14 + 20 || (frame[0] & 1))
        return -1;
    memset(tuple, 0, sizeof(*tuple));
    if (hs_load16(frame + 12) == 0x0800) {
        uint32_t header = (ip[0] & 15) * 4u, total = hs_load16(ip + 2);

        if (ip[0] >> 4 != 4 || header < 20 || total < header || total > len - 14 ||
            (hs_load16(ip + 6) & 0x3fff)) /* a fragment */
            return -1;
        tuple->family = 4;
        tuple->proto = ip[9];
        memcpy(tuple->src, ip + 12, 4);
        memcpy(tuple->dst, ip + 16, 4);
        l4 = ip + header;
        left = total - header;
    } else if (hs_load16(frame + 12) == 0x86dd) {
        if (len < 14 + 40 || ip[0] >> 4 != 6 || hs_load16(ip + 4) > len - 14 - 40)
            return -1;
        tuple->family = 6;
        tuple->proto = ip[6];
        memcpy(tuple->src, ip + 8, 16);
        memcpy(tuple->dst, ip + 24, 16);
        l4 = ip + 40;
        left = hs_load16(ip + 4);
    } else {
        return -1;
    }
    switch (tuple->proto) {
    case 6:
        if (left < 20)
            return -1;
        break;
    case 17:
    case 132:
    case 136:
        if (left < 8)
            return -1;
        break;
    case 1:
        if (tuple->family != 4 || left < 8 || (l4[0] != 8 && l4[0] != 0))
            return -1;
        memcpy(&tuple->sport, l4 + 4, 2);
        tuple->dport = tuple->sport;
        return 0;
    case 58:
        if (tuple->family != 6 || left < 8 || (l4[0] != 128 && l4[0] != 129))
            return -1;
        memcpy(&tuple->sport, l4 + 4, 2);
        tuple->dport = tuple->sport;
        return 0;
    case 0: /* extension headers, over IPv6: what is behind them is the switch's to find */
    case 43:
    case 44:
    case 51:
    case 60:
        return tuple->family == 6 ? -1 : 0;
    default:
        return 0; /* no ports */
    }
    memcpy(&tuple->sport, l4, 2);
    memcpy(&tuple->dport, l4 + 2, 2);
    return 0;
}
