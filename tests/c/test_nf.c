// SPDX-License-Identifier: Apache-2.0
/* The network functions against any bytes: each frame in memory of exactly its size, so that
 * AddressSanitizer sees one byte too far. Frames are well-formed ones with something broken, for
 * bytes that are only random get no further than the first check.
 */
#include "check.h"
#include "nf/firewall.h"
#include "nf/nat.h"

#include <arpa/inet.h>
#include <string.h>

#define FRAMES 400000
#define SECOND UINT64_C(1000000000)

static const uint8_t outside[4] = {198, 18, 0, 30}, mac[6] = {2, 0, 0, 0, 0, 0x30};

/* One of a few hosts, so that connections meet; often the translator. */
static void host(uint8_t *at, uint64_t *random) {
    memcpy(at, outside, 4);
    at[3] = (uint8_t)(10 + draw(random) % 3 * 10);
}

/* A frame of some kind, up to 200 bytes. */
static uint32_t make(uint8_t *f, uint64_t *random) {
    static const uint8_t protos[] = {1, 6, 17, 58, 47, 0, 43, 44};
    const int six = draw(random) % 4 == 0;
    const uint32_t len = 14 + (uint32_t)(draw(random) % 186), head = six ? 40 : 20;
    uint8_t *ip = f + 14, *l4;

    for (uint32_t i = 0; i < 200; i++)
        f[i] = (uint8_t)draw(random);
    f[0] &= 0xfe;
    hs_store16(f + 12, six ? 0x86dd : 0x0800);
    ip[0] = six ? 0x60 : 0x45;
    if (six) {
        hs_store16(ip + 4, (uint16_t)(len > 54 ? len - 54 : 0));
        ip[6] = protos[draw(random) % 8];
    } else {
        hs_store16(ip + 2, (uint16_t)(len - 14));
        hs_store16(ip + 6, draw(random) % 8 ? 0 : (uint16_t)draw(random) & 0x3fff);
        ip[9] = protos[draw(random) % 4];
        host(ip + 12, random);
        host(ip + 16, random);
    }
    l4 = ip + head;
    hs_store16(l4, (uint16_t)(1000 + draw(random) % 300));
    hs_store16(l4 + 2, (uint16_t)(1000 + draw(random) % 300));
    if (!six && ip[9] == 1) {
        l4[0] = (uint8_t)(draw(random) % 13);
        hs_store16(l4 + 4, (uint16_t)(1000 + draw(random) % 300));
    }
    if (draw(random) % 2) { /* an ICMP error's packet */
        l4[8] = 0x45;
        hs_store16(l4 + 14, 0);
        l4[17] = protos[draw(random) % 3];
        host(l4 + 20, random);
        host(l4 + 24, random);
        hs_store16(l4 + 28, (uint16_t)(1000 + draw(random) % 300));
        hs_store16(l4 + 30, (uint16_t)(1000 + draw(random) % 300));
    }
    for (uint64_t n = draw(random) % 3; n > 0; n--)
        f[draw(random) % 80] = (uint8_t)draw(random);
    return len;
}

static void any_bytes(void) {
    struct hs_row row = {.route = 0, .any_from = 1, .ports = 0};
    const uint8_t accept[2] = {1, 0};
    static struct hs_firewall fw;
    static struct hs_nat nat;
    uint64_t random = 7, passed = 0, dropped = 0, now = SECOND;
    uint8_t frame[256];

    CHECK(hs_firewall_open(&fw, &row, 1, accept, 1, 512, -1) == 0);
    CHECK(hs_nat_open(&nat, outside, mac, 1024, 1279, -1) == 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        const uint32_t len = make(frame, &random);
        uint8_t *exact = malloc(len);

        CHECK(exact);
        memcpy(exact, frame, len);
        now += draw(&random) % (SECOND / 100);
        if (hs_firewall_pass(&fw, exact, len, now))
            passed++;
        else
            dropped++;
        if (hs_nat_pass(&nat, exact, len, now))
            passed++;
        else
            dropped++;
        free(exact);
    }
    CHECK(passed > FRAMES / 20 && dropped > FRAMES / 20);
    CHECK(nat.counts[HS_NAT_NEW] > 1000 && nat.counts[HS_NAT_FULL] > 0);
    CHECK(nat.counts[HS_NAT_IN] > 0 && fw.accepted > 1000);
    hs_firewall_close(&fw);
    hs_nat_close(&nat);
    hs_nat_close(&nat);
}

/* However ports come and go, each is either free or some living connection's, and only its. */
static void ports_are_kept(void) {
    static struct hs_nat nat;
    uint64_t random = 3, now = SECOND;
    uint8_t frame[64] = {0};
    const uint32_t ports = 61;

    CHECK(hs_nat_open(&nat, outside, mac, 5000, 5060, -1) == 0);
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t held = 0;

        memset(frame, 0, sizeof(frame));
        hs_store16(frame + 12, 0x0800);
        frame[14] = 0x45;
        hs_store16(frame + 16, 50);
        frame[23] = 17;
        frame[29] = 10;
        frame[33] = (uint8_t)draw(&random);
        hs_store16(frame + 34, (uint16_t)(4990 + draw(&random) % 100));
        now += draw(&random) % (4 * SECOND);
        hs_nat_pass(&nat, frame, sizeof(frame), now);
        for (uint32_t k = 0; k < nat.conns.entries; k++) {
            const struct hs_tracked *e = &nat.conns.entry[k];

            if (e->state == HS_FREE)
                continue;
            held++;
            CHECK(nat.ports[1].where[e->port - 5000] >= nat.ports[1].free_count);
            CHECK(nat.ports[1].conn[e->port - 5000] == k);
        }
        CHECK(held + nat.ports[1].free_count == ports);
    }
    CHECK(nat.counts[HS_NAT_NEW] > 1000);
    hs_nat_close(&nat);
}

int main(void) {
    struct hs_row row = {.route = 1};
    const uint8_t accept[2] = {1, 0};
    static struct hs_firewall fw;
    static struct hs_nat nat;

    CHECK(hs_firewall_open(&fw, &row, 1, accept, 1, 8, -1) < 0); /* a rule that is not there */
    CHECK(hs_nat_open(&nat, outside, mac, 9, 8, -1) < 0);
    any_bytes();
    ports_are_kept();
    return 0;
}
