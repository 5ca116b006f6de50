/* Which flow a packet belongs to, and where a routing rule sends it: a table in shared memory that
 * the daemon writes and one VM reads, without locks.
 *
 * The table is a region that the VM maps read-only. Each entry is a small seqlock: the writer makes
 * `sequence` odd, writes, and makes it even again (release); a reader that sees an odd one, or
 * another one after reading (acquire), has found nothing, and the packet goes to the switch.
 * A rule holds only while its epoch is the table's: one store makes all rules of an old policy
 * stale. The tuple is switch/layout.h's, for the rules are derived from the classifier's flows.
 */
#ifndef HS_FLOW_H
#define HS_FLOW_H
#include "switch/layout.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HS_RULES_MAGIC 0x6c756872u
#define HS_RULES_VERSION 1
#define HS_RULES_PROBE 8 /* entries looked at for a tuple */
#define HS_TO_VM 0xffffu
#define HS_TO_WAIT 0x10000u /* with the VM number: where its ring is full, wait for room */

struct hs_rules_entry {
    _Atomic uint32_t sequence;
    _Atomic uint32_t epoch;    /* 0: empty */
    _Atomic uint64_t words[5]; /* the tuple */
    _Atomic uint32_t to;       /* VM number, and HS_TO_WAIT */
    uint32_t pad;
};
_Static_assert(sizeof(struct hs_rules_entry) == 56, "layout is protocol");
_Static_assert(sizeof(struct hs_tuple) == 40, "five words");

struct hs_rules {
    uint32_t magic, version;
    uint32_t entries; /* a power of two */
    _Atomic uint32_t epoch;
    _Atomic uint32_t withdrawn; /* grows whenever a rule or all of them cease to hold */
    _Alignas(64) struct hs_rules_entry entry[];
};
_Static_assert(offsetof(struct hs_rules, entry) == 64, "layout is protocol");

/* What the bytes of a flow's frames look like from the ethertype to the ports, so that the next
 * frame of the same flow is known by a few words: TCP and UDP over IPv4 without options. A zeroed
 * one is no flow's. */
struct hs_flow_look {
    uint64_t middle, last; /* bytes 20 to 27 and 28 to 35 of the frame, masked: of whole packets */
    uint16_t dport;
    uint32_t
        least; /* bytes of the shortest such frame; 0: frames of this flow look too different */
};

static inline uint64_t hs_flow_word(const uint8_t bytes[8]) {
    uint64_t word;

    memcpy(&word, bytes, sizeof(word));
    return word;
}

static inline struct hs_flow_look hs_flow_look_of(const struct hs_tuple *tuple) {
    struct hs_flow_look look = {.dport = tuple->dport};
    uint8_t middle[8] = {[3] = tuple->proto}, last[8];

    if (tuple->family != 4 || (tuple->proto != 6 && tuple->proto != 17))
        return look;
    memcpy(middle + 6, tuple->src, 2);
    memcpy(last, tuple->src + 2, 2);
    memcpy(last + 2, tuple->dst, 4);
    memcpy(last + 6, &tuple->sport, 2);
    look.middle = hs_flow_word(middle);
    look.last = hs_flow_word(last);
    look.least = 14 + 20 + (tuple->proto == 6 ? 20 : 8);
    return look;
}

/* Whether a frame is of a flow that hs_flow_parse has found before, told from the bytes as they
 * stand. 0: it may be, or not. */
static inline int hs_flow_again(const uint8_t *frame, uint32_t len,
                                const struct hs_flow_look *look) {
    static const uint8_t first[8] = {0x08, 0x00, 0x45}, first_mask[8] = {0xff, 0xff, 0xff};
    /* no fragment; the protocol; the source's first half */
    static const uint8_t middle_mask[8] = {0x3f, 0xff, 0, 0xff, 0, 0, 0xff, 0xff};
    uint64_t differs;
    uint32_t total;
    uint16_t dport;

    if (look->least == 0 || len < look->least)
        return 0;
    memcpy(&dport, frame + 36, sizeof(dport));
    differs = (hs_flow_word(frame + 12) ^ hs_flow_word(first)) & hs_flow_word(first_mask);
    differs |= (hs_flow_word(frame + 20) & hs_flow_word(middle_mask)) ^ look->middle;
    differs |= (hs_flow_word(frame + 28) ^ look->last) | (uint16_t)(dport ^ look->dport);
    total = 14 + (uint32_t)(frame[16] << 8 | frame[17]);
    return ((differs | (frame[0] & 1)) == 0) & (total >= look->least) & (total <= len);
}

static inline int hs_tuple_same(const struct hs_tuple *a, const struct hs_tuple *b) {
    uint64_t x[5], y[5];

    memcpy(x, a, sizeof(x));
    memcpy(y, b, sizeof(y));
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

/* A number for a tuple, taken as five words. */
uint32_t hs_tuple_hash(const uint64_t words[5]);

/* Bytes of a table of `entries` (a power of two in [8, 2^20]); 0 where it is not. */
uint64_t hs_rules_bytes(uint32_t entries);

/* Writer: make an empty table in zeroed memory. */
void hs_rules_init(struct hs_rules *rules, uint32_t entries);

/* Writer: every rule with another epoch is stale from now on. */
void hs_rules_set_epoch(struct hs_rules *rules, uint32_t epoch);

/* Writer: add or change a rule; to: a VM number, and HS_TO_WAIT. Returns 0, or -ENOSPC: its places
 * hold other current rules. */
int hs_rules_put(struct hs_rules *rules, const struct hs_tuple *tuple, uint32_t to, uint32_t epoch);

/* Writer: remove a rule, if it is there. */
void hs_rules_remove(struct hs_rules *rules, const struct hs_tuple *tuple);

/* Reader: what a current rule names (`to`), or 0. `entries`: what the table's maker said. */
uint32_t hs_rules_find(const struct hs_rules *rules, uint32_t entries,
                       const struct hs_tuple *tuple);

/* The flow of a frame: TCP, UDP, SCTP, UDP-Lite and ICMP echo over IPv4 and IPv6 without fragments
 * and extension headers. 0, or -1: none that could have a rule; it goes to the switch, which knows
 * more. Reads at most `len` bytes. */
int hs_flow_parse(const uint8_t *frame, uint32_t len, struct hs_tuple *tuple);

#endif
