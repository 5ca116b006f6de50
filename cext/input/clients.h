// SPDX-License-Identifier: Apache-2.0
/* What the kernel itself has noted of an input device's open files (input/clients.bpf.c). A program
 * of -1 is none: this kernel does not tell. */
#ifndef HS_CLIENTS_H
#define HS_CLIENTS_H
#include <stdint.h>

/* The two programs there, by their descriptors. */
struct hs_clients {
    int32_t others, waiting;
};
_Static_assert(sizeof(struct hs_clients) == 8, "struct hs_clients");

/* fd: an open file of a device, of this process; also: another one of it, or -1. How many others
 * there are that are not revoked, of anybody; or a negative errno. */
int hs_clients_others(const struct hs_clients *clients, int fd, int also);
/* How many events wait in this open file, SYN left out; or a negative errno. */
int hs_clients_waiting(const struct hs_clients *clients, int fd);

#endif
