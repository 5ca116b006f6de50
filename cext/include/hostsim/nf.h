// SPDX-License-Identifier: Apache-2.0
/* A network function in C, the one header that a plug-in includes. C11 or C++; needs no other.
 *
 *     #include <hostsim/nf.h>
 *
 *     HS_NF_PLUGIN;
 *
 *     uint32_t hs_nf(void *state, struct hs_port *port, struct hs_packet *batch, uint32_t n) {
 *         ...
 *     }
 *
 *     cc -O2 -shared -fPIC $(hostsim nf --cflags) -o my_nf.so my_nf.c
 *
 * The host file names it, `nf = "./my_nf.so"`. hostsim loads it in a process of the VM's own, calls
 * hs_nf for each batch of packets from one thread, and refuses a plug-in that was built with
 * another version of this header.
 */
#ifndef HOSTSIM_NF_H
#define HOSTSIM_NF_H

#include <stdint.h>

/* Grows whenever anything below changes so that a plug-in must be built anew. */
#define HS_NF_VERSION 1

/* Packets in a batch, at most. */
#define HS_BURST 64

#define HS_NF_EXPORTED __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* A packet that the function holds. The memory from its first byte on is the function's to read and
 * write until it returns: `len` bytes, and no more. */
struct hs_packet {
    uint64_t addr; /* of its Ethernet header, in the port's memory; not to be changed */
    uint32_t len;  /* bytes, without the frame check sequence; may be made less */
    uint32_t from; /* number of the VM whose ring it came by; 0: by eth0 */
};

/* Opaque but for its first member: `uint8_t *memory`, the start of the port's packet memory. */
struct hs_port;

/* The packet's first byte. */
static inline uint8_t *hs_packet_data(const struct hs_port *port, const struct hs_packet *packet) {
    return *(uint8_t *const *)(const void *)port + packet->addr;
}

/* The plug-in's. state: NULL. batch: `n` packets, 1..HS_BURST, in the order in which they came. It
 * may change them, and reorder the batch. Returns how many of it, from its start, go on, in that
 * order; the rest is dropped. */
HS_NF_EXPORTED uint32_t hs_nf(void *state, struct hs_port *port, struct hs_packet *batch,
                              uint32_t n);

/* The version of this header that the plug-in was built with. */
HS_NF_EXPORTED extern const uint32_t hs_nf_version;

/* Stands once in each plug-in, followed by a semicolon. */
#define HS_NF_PLUGIN const uint32_t hs_nf_version = HS_NF_VERSION

#ifdef __cplusplus
}
#endif

#endif
