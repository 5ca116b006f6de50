// SPDX-License-Identifier: Apache-2.0
/* See ns/unread.h. This file: the driver's counts by their names, which are per queue. */
#include "ns/unread.h"

#include "ns/sock.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { COUNTS_MAX = 65536 };

static int ask(int fd, struct ifreq *request, void *question) {
    request->ifr_data = question;
    return ioctl(fd, SIOCETHTOOL, request) < 0 ? -errno : 0;
}

/* Whether the name is "rx_queue_N" and this. */
static int is(const char *name, const char *what) {
    unsigned queue;
    int length = 0;

    return sscanf(name, "rx_queue_%u%n", &queue, &length) == 1 && length > 0 &&
           strncmp(name + length, what, ETH_GSTRING_LEN - (size_t)length) == 0;
}

int hs_unread(int netns_fd, uint32_t index, struct hs_unread *found) {
    struct {
        struct ethtool_sset_info info;
        uint32_t count;
    } set = {.info = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ull << ETH_SS_STATS}};
    int fd = hs_socket_at(netns_fd, AF_INET, SOCK_DGRAM, 0), ret;
    struct ifreq request = {.ifr_ifindex = (int)index};
    struct ethtool_gstrings *names = NULL;
    struct ethtool_stats *counts = NULL;

    *found = (struct hs_unread){0};
    if (fd < 0)
        return fd;
    ret = ioctl(fd, SIOCGIFNAME, &request) < 0 ? -errno : ask(fd, &request, &set);
    if (ret < 0)
        goto out;
    ret = set.count == 0 || set.count > COUNTS_MAX ? -EOPNOTSUPP : 0;
    if (ret < 0)
        goto out;
    names = calloc(1, sizeof(*names) + ((size_t)set.count + 1) * ETH_GSTRING_LEN);
    counts = calloc(1, sizeof(*counts) + (size_t)set.count * sizeof(counts->data[0]));
    if (!names || !counts) {
        ret = -ENOMEM;
        goto out;
    }
    names->cmd = ETHTOOL_GSTRINGS;
    names->string_set = ETH_SS_STATS;
    names->len = set.count;
    counts->cmd = ETHTOOL_GSTATS;
    counts->n_stats = set.count;
    ret = ask(fd, &request, names);
    if (ret == 0)
        ret = ask(fd, &request, counts);
    if (ret == 0 && (names->len != set.count || counts->n_stats != set.count))
        ret = -EAGAIN; /* its queues have changed meanwhile */
    for (uint32_t i = 0; ret == 0 && i < set.count; i++) {
        const char *name = (const char *)names->data + (size_t)i * ETH_GSTRING_LEN;

        if (is(name, "_drops"))
            found->full += counts->data[i];
        else if (is(name, "_xdp_drops"))
            found->dropped += counts->data[i];
    }
out:
    free(counts);
    free(names);
    close(fd);
    return ret;
}
