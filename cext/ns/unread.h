// SPDX-License-Identifier: Apache-2.0
/* What a veth could not hand to the XDP program's socket, as its driver counts it (ethtool -S). */
#ifndef HS_UNREAD_H
#define HS_UNREAD_H
#include <stdint.h>

struct hs_unread {
    uint64_t full;    /* frames that the socket, or whatever the program chose, did not take */
    uint64_t dropped; /* frames that the program dropped */
};

/* Of interface number `index` in the namespace, since it was made. Returns 0 or a negative errno.
 */
int hs_unread(int netns_fd, uint32_t index, struct hs_unread *found);

#endif
