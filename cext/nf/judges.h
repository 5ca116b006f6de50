// SPDX-License-Identifier: Apache-2.0
/* The network functions that ship, as a port's loop runs them (hs_judge in port/port.h), and the
 * source. Their state and what they decide: nf/firewall.h, nf/nat.h. */
#ifndef HS_NF_H
#define HS_NF_H
#include "nf/firewall.h"
#include "nf/nat.h"
#include "port/port.h"

/* Send everything on as it is. */
uint32_t hs_judge_forward(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);
/* Drop everything. */
uint32_t hs_judge_sink(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);
/* state: a struct hs_firewall. */
uint32_t hs_judge_firewall(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);
/* state: a struct hs_nat. */
uint32_t hs_judge_nat(void *state, struct hs_port *p, struct hs_packet *batch, uint32_t n);

/* Send `count` copies of one packet (0: without end), `rate` a second (0: as fast as they are
 * taken), until `also` is readable; what comes in is dropped. *sent: how many so far, so that a
 * second call goes on. 0, or a negative errno. */
int hs_nf_source(struct hs_port *p, const uint8_t *packet, uint32_t len, uint64_t count,
                 uint64_t rate, uint64_t *sent, int also);

#endif
