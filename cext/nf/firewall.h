// SPDX-License-Identifier: Apache-2.0
/* The firewall: an ordered list of rules, and the connections that they let through.
 *
 * A connection's first packet is held against the rules, the first one that matches decides, and
 * if none does the default; what belongs to an accepted connection passes then, both ways, and
 * so do ICMP errors about it. The rules are rows as the classifier's (struct hs_row: `route` is the
 * rule's index, `from` and `content` are not looked at), and which way a TCP packet without SYN
 * goes that nobody remembers is for the rules both ways round, the first that matches decides: so a
 * firewall that was started anew does not cut established connections. A SYN begins a connection:
 * it passes as part of one only if another SYN began that, the same way, and is held against the
 * rules else. So nobody lets himself in by an answer to what nobody asked. Later fragments do as
 * the first one did.
 */
#ifndef HS_NF_FIREWALL_H
#define HS_NF_FIREWALL_H
#include "nf/track.h"
#include "switch/layout.h"

#define HS_FIREWALL_CONNS (1u << 16)
#define HS_RULES_MAX 2048 /* rows */

/* Why a packet was dropped; `hits` has the others, by rule. */
enum hs_firewall_drop {
    HS_FW_MALFORMED,
    HS_FW_ORPHAN,     /* a fragment whose first one was not let through */
    HS_FW_TABLE_FULL, /* accepted, but there is no room to remember it by */
    HS_FW_REASONS
};

struct hs_firewall {
    const struct hs_row *rows;
    uint32_t row_count;
    const uint8_t *accept; /* by rule; the default comes last */
    uint32_t rules;        /* without the default */
    uint64_t *hits;        /* packets judged, by rule; the default's come last */
    uint64_t *refused;     /* and of these, packets dropped */
    uint64_t accepted;     /* packets, of connections that are known too */
    uint64_t drops[HS_FW_REASONS];
    struct hs_track conns;
    struct hs_frags frags;
};

/* rows, accept: stay the caller's, who keeps them until the close. accept: 1 or 0 for each rule,
 * and for the default. conns: connections remembered, in kept_fd (see hs_track_open). 0, or a
 * negative errno. */
int hs_firewall_open(struct hs_firewall *f, const struct hs_row *rows, uint32_t row_count,
                     const uint8_t *accept, uint32_t rules, uint32_t conns, int kept_fd);
/* Twice is harmless. */
void hs_firewall_close(struct hs_firewall *f);

/* Whether the frame goes on. now: ns, never less than before. */
int hs_firewall_pass(struct hs_firewall *f, const uint8_t *frame, uint32_t len, uint64_t now);

/* The rule that decides for a connection's first packet; `rules`: the default. */
uint32_t hs_firewall_rule(const struct hs_firewall *f, const struct hs_view *v);

#endif
