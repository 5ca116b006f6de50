/* The parser of a port and that of a packet function find the same flow in any frame.
 *
 * Whatever flow hs_flow_parse finds, hs_view_parse finds too. The other way round, hs_flow_parse
 * finds none only for a reason that flow/parse.h names: it is the packet function's parser that
 * says which, for a frame's bytes say it and not how the frame was made. Each frame is in memory of
 * exactly its size, so that AddressSanitizer sees one byte too far.
 */
#include "flow/parse.h"
#include "flow/view.h"
#include "frames.h"

#define FRAMES 1000000

enum reason {
    NONE,
    GROUP,
    TAGGED,
    NO_IP,
    FRAGMENT,
    EXTENSIONS,
    NO_PORTS, /* a protocol without ports, or ICMP other than echo */
    REASONS
};

/* Why a port leaves a frame to the switch, of which a packet function finds the flow. */
static enum reason reason_of(const uint8_t *frame, const struct hs_view *v) {
    const struct hs_tuple *t = &v->tuple;
    const uint8_t proto = t->proto;

    if (frame[0] & 1)
        return GROUP;
    if (v->l3 != 14 || t->vlan)
        return TAGGED;
    if (!t->family)
        return NO_IP;
    if (v->fragment)
        return FRAGMENT;
    if (t->family == 6 && v->l4 != 54)
        return EXTENSIONS;
    if (proto == HS_IP_ICMP || proto == HS_IP_ICMPV6) {
        const uint8_t least = proto == HS_IP_ICMP ? 0 : 128, most = proto == HS_IP_ICMP ? 8 : 129;

        if (proto == (t->family == 4 ? HS_IP_ICMP : HS_IP_ICMPV6) &&
            (v->type == least || v->type == most))
            return NONE;
        return NO_PORTS;
    }
    return hs_has_ports(proto) ? NONE : NO_PORTS;
}

int main(void) {
    uint64_t random = 11, alike = 0, malformed = 0, reasons[REASONS] = {0};

    for (uint32_t i = 0; i < FRAMES; i++) {
        uint8_t frame[FRAME_MAX], *exact;
        struct hs_tuple fast;
        struct hs_view view;
        struct made made;
        const uint32_t len = make_frame(frame, &random, &made);
        int parsed, viewed;

        exact = malloc(len);
        CHECK(exact);
        memcpy(exact, frame, len);
        parsed = hs_flow_parse(exact, len, &fast) == 0;
        viewed = hs_view_parse(exact, len, &view) == 0;
        CHECK(parsed == (viewed && reason_of(exact, &view) == NONE));
        if (parsed) {
            CHECK(hs_tuple_same(&fast, &view.tuple));
            alike++;
        } else if (viewed) {
            reasons[reason_of(exact, &view)]++;
        } else {
            malformed++;
        }
        free(exact);
    }
    CHECK(alike > FRAMES / 20 && malformed > FRAMES / 20);
    for (int why = GROUP; why < REASONS; why++)
        CHECK(reasons[why] > FRAMES / 500);
    return 0;
}
