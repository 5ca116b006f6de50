// SPDX-License-Identifier: Apache-2.0
/* Frames of every kind that a parser has to tell apart: most are well formed, some lie. */
#ifndef FRAMES_H
#define FRAMES_H
#include "check.h"
#include "flow/bytes.h"

#include <string.h>

#define FRAME_MAX 400

/* How a frame was made, so that a test can name what it does not expect of one. */
struct made {
    int six, tags, vlan, deep, group, later, first, extensions, options, changed;
};

static inline uint32_t pick(uint64_t *random, uint32_t n) {
    return (uint32_t)(draw(random) % n);
}

/* Tags in front of the contents: 0 to 3 in most frames; the last ethertype goes to *at. */
static inline uint32_t tags(uint8_t *f, uint32_t at, uint64_t *random, struct made *m) {
    static const uint16_t ids[] = {0, 0, 0, 7, 9};

    m->tags = pick(random, 4) ? 0 : (int)(1 + pick(random, pick(random, 4) ? 3 : 10));
    for (int i = 0; i < m->tags; i++) {
        const uint16_t id = m->tags > 3 ? 0 : ids[pick(random, 5)];

        hs_store16(f + at, pick(random, 2) ? 0x8100 : 0x88a8);
        hs_store16(f + at + 2, (uint16_t)(pick(random, 8) << 13 | id));
        m->deep |= m->vlan && id;
        m->vlan |= id;
        at += 4;
    }
    return at;
}

/* Few addresses and numbers of datagrams in half of the packets, so that fragments meet; groups in
 * some of the others. */
static inline void meet(uint8_t *src, uint8_t *dst, uint32_t size, uint8_t *id, uint32_t id_size,
                        uint64_t *random) {
    switch (pick(random, 6)) {
    case 0:
        dst[0] = size == 4 ? 0xe0 : 0xff;
        break;
    case 1:
        memset(dst, 0xff, size);
        break;
    case 2:
    case 3:
    case 4:
        memset(src, 1, size);
        memset(dst, 2, size);
        memset(id, 0, id_size);
        id[0] = (uint8_t)pick(random, 40);
        break;
    default:
        break;
    }
}

/* The transport header, and what an ICMP error is about. */
static inline uint8_t contents(uint8_t *l4, uint64_t *random, int six) {
    static const uint8_t protos[] = {6, 17, 17, 132, 136, 1, 58, 47};
    const uint8_t proto = protos[pick(random, 8)];

    hs_store16(l4, (uint16_t)(1000 + pick(random, 300)));
    hs_store16(l4 + 2, (uint16_t)(1000 + pick(random, 300)));
    if (proto == 1)
        l4[0] = (uint8_t)pick(random, 13);
    if (proto == 58)
        l4[0] = (uint8_t)(pick(random, 2) ? 126 + pick(random, 20) : pick(random, 5));
    if (six) {
        l4[8] = 0x60;
        l4[14] = protos[pick(random, 8)];
    } else {
        l4[8] = 0x45;
        hs_store16(l4 + 14, 0);
        l4[17] = protos[pick(random, 8)];
    }
    return proto;
}

static inline uint32_t ipv4(uint8_t *ip, uint64_t *random, struct made *m) {
    const uint32_t header = 20 + (pick(random, 4) ? 0 : 4 * pick(random, 11));
    const uint32_t total = header + pick(random, 100);

    m->options = header > 20;
    ip[0] = (uint8_t)(0x40 | header / 4);
    hs_store16(ip + 2, (uint16_t)total);
    hs_store16(ip + 6, 0);
    if (pick(random, 6) == 0) {
        hs_store16(ip + 6, (uint16_t)(pick(random, 2) << 13 | pick(random, 2) * pick(random, 99)));
        m->later = (hs_load16(ip + 6) & 0x1fff) != 0;
        m->first = !m->later && hs_load16(ip + 6);
    }
    meet(ip + 12, ip + 16, 4, ip + 4, 2, random);
    ip[9] = contents(ip + header, random, 0);
    return total;
}

static inline uint32_t ipv6(uint8_t *ip, uint64_t *random, struct made *m) {
    static const uint8_t kinds[] = {0, 43, 60, 51, 44};
    const int count = pick(random, 3) ? 0 : (int)(1 + pick(random, pick(random, 3) ? 3 : 10));
    uint8_t *next = ip + 6, none[4], *id = none;
    uint32_t at = 40;

    m->six = 1;
    m->extensions = count;
    ip[0] = 0x60;
    ip[7] = (uint8_t[]){255, 1, 64}[pick(random, 3)];
    for (int i = 0; i < count; i++) {
        const uint8_t kind = kinds[pick(random, 5)];

        *next = kind;
        next = ip + at;
        ip[at + 1] = (uint8_t)(kind == 51 ? 4 : pick(random, 2));
        if (kind == 44) {
            hs_store16(ip + at + 2, (uint16_t)(pick(random, 3) ? 0 : pick(random, 90)));
            id = ip + at + 4;
            m->later |= (hs_load16(ip + at + 2) & 0xfff8) != 0;
            m->first |= !(hs_load16(ip + at + 2) & 0xfff8) && (ip[at + 3] & 1);
        }
        at += kind == 44 ? 8u : kind == 51 ? (ip[at + 1] + 2u) * 4 : (ip[at + 1] + 1u) * 8;
    }
    meet(ip + 8, ip + 24, 16, id, 4, random);
    *next = contents(ip + at, random, 1);
    at += pick(random, 100);
    hs_store16(ip + 4, (uint16_t)(at - 40));
    return at;
}

/* Fill `f` (FRAME_MAX bytes); how long the frame is, and how it was made. */
static inline uint32_t make_frame(uint8_t *f, uint64_t *random, struct made *m) {
    uint32_t at, len;

    memset(m, 0, sizeof(*m));
    for (uint32_t i = 0; i < FRAME_MAX; i++)
        f[i] = (uint8_t)draw(random);
    m->group = pick(random, 6) == 0;
    f[0] = (uint8_t)((f[0] & 0xfe) | m->group);
    at = tags(f, 12, random, m);
    switch (pick(random, 12)) {
    case 0:
        hs_store16(f + at, (uint16_t[]){0x0806, 0x88b5, 0x9100, 0x8847, 100}[pick(random, 5)]);
        len = at + 2 + pick(random, 60);
        break;
    case 1:
    case 2:
    case 3:
    case 4:
        hs_store16(f + at, 0x86dd);
        len = at + 2 + ipv6(f + at + 2, random, m);
        break;
    default:
        hs_store16(f + at, 0x0800);
        len = at + 2 + ipv4(f + at + 2, random, m);
    }
    if (pick(random, 4) == 0) /* padding behind the packet, as short frames have it */
        len += pick(random, 20);
    if (pick(random, 6) == 0)
        len = 14 + pick(random, len - 13);
    if (pick(random, 4) == 0) {
        f[pick(random, len)] = (uint8_t)draw(random);
        m->changed = 1;
    }
    return len < FRAME_MAX ? len : FRAME_MAX;
}

#endif
