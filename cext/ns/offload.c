// SPDX-License-Identifier: Apache-2.0
/* See ns/offload.h. This file: the ioctls. */
#include "ns/offload.h"

#include "ns/sock.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* VLAN tags travel beside the packet, and nobody would see them who looks at the frame alone. */
static const char *const beside[] = {"tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"};
enum { FEATURES_MAX = 1024 };

/* Ask the driver of `interface`. One that does not know the question is no error. */
static int ask(int fd, const char *interface, void *question) {
    struct ifreq request;

    memset(&request, 0, sizeof(request));
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    request.ifr_data = question;
    return ioctl(fd, SIOCETHTOOL, &request) < 0 && errno != EOPNOTSUPP ? -errno : 0;
}

/* Features have numbers of this kernel's own; their names are the same in all. */
static int set_tags(int fd, const char *interface, int on) {
    struct {
        struct ethtool_sset_info info;
        uint32_t count;
    } set = {.info = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ull << ETH_SS_FEATURES}};
    struct ethtool_gstrings *names = NULL;
    struct ethtool_sfeatures *features = NULL;
    uint32_t blocks;
    int ret = ask(fd, interface, &set);

    if (ret < 0 || set.count == 0)
        return ret;
    if (set.count > FEATURES_MAX)
        return -E2BIG;
    blocks = (set.count + 31) / 32;
    names = calloc(1, sizeof(*names) + (size_t)set.count * ETH_GSTRING_LEN);
    features = calloc(1, sizeof(*features) + blocks * sizeof(features->features[0]));
    if (!names || !features) {
        ret = -ENOMEM;
        goto out;
    }
    names->cmd = ETHTOOL_GSTRINGS;
    names->string_set = ETH_SS_FEATURES;
    names->len = set.count;
    ret = ask(fd, interface, names);
    if (ret < 0)
        goto out;
    features->cmd = ETHTOOL_SFEATURES;
    features->size = blocks;
    for (uint32_t i = 0; i < set.count; i++)
        for (unsigned k = 0; k < sizeof(beside) / sizeof(*beside); k++)
            if (strncmp((char *)names->data + i * ETH_GSTRING_LEN, beside[k], ETH_GSTRING_LEN) ==
                0) {
                features->features[i / 32].valid |= 1u << i % 32;
                features->features[i / 32].requested |= (uint32_t)on << i % 32;
            }
    ret = ask(fd, interface, features);
out:
    free(features);
    free(names);
    return ret;
}

int hs_offload(int netns_fd, const char *interface, int on) {
    const uint32_t commands[] = {ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO};
    int fd = hs_socket_at(netns_fd, AF_INET, SOCK_DGRAM, 0), ret = 0;

    if (fd < 0)
        return fd;
    for (unsigned i = 0; i < sizeof(commands) / sizeof(*commands) && ret == 0; i++) {
        struct ethtool_value value = {.cmd = commands[i], .data = on};

        ret = ask(fd, interface, &value);
    }
    if (ret == 0)
        ret = set_tags(fd, interface, on);
    close(fd);
    return ret;
}
