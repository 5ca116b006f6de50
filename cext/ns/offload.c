/* See ns/offload.h. This file: the three ioctls. */
#include "ns/offload.h"

#include "ns/sock.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int hs_offload_off(int netns_fd, const char *interface) {
    const uint32_t commands[] = {ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO};
    int fd = hs_socket_at(netns_fd, AF_INET, SOCK_DGRAM, 0), ret = 0;
    struct ethtool_value value;
    struct ifreq request;

    if (fd < 0)
        return fd;
    for (unsigned i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        value = (struct ethtool_value){.cmd = commands[i], .data = 0};
        memset(&request, 0, sizeof(request));
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
        request.ifr_data = (char *)&value;
        if (ioctl(fd, SIOCETHTOOL, &request) < 0 && errno != EOPNOTSUPP) {
            ret = -errno;
            goto out;
        }
    }
out:
    close(fd);
    return ret;
}
