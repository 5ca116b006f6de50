// SPDX-License-Identifier: Apache-2.0
/* What the kernel itself has noted of an input device's open files (input/clients.bpf.c). A program
 * of -1 is none: this kernel does not tell. */
#ifndef HS_CLIENTS_H
#define HS_CLIENTS_H
#include <stdint.h>

/* The programs there, by their descriptors. */
struct hs_clients {
    int32_t others, waiting, place, before;
};
_Static_assert(sizeof(struct hs_clients) == 16, "struct hs_clients");

#define HS_CLIENTS_KNOWN 12 /* open files that a question can name */

/* How many open files of a device there are, of anybody, that are not revoked and are none of the n
 * known; or a negative errno (E2BIG: n is more than HS_CLIENTS_KNOWN). known: descriptors of this
 * process, the first one an open file of the device; -1 is none. */
int hs_clients_others(const struct hs_clients *clients, const int32_t *known, uint32_t n);
/* How many events wait in this open file, SYN left out; or a negative errno. */
int hs_clients_waiting(const struct hs_clients *clients, int fd);
/* How far events have come in this open file, 0 or more; or a negative errno. */
int hs_clients_place(const struct hs_clients *clients, int fd);
/* How many of the events until then have not been read; or a negative errno. */
int hs_clients_before(const struct hs_clients *clients, int fd, int place);

#endif
