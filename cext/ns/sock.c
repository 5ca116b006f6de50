// SPDX-License-Identifier: Apache-2.0
/* See ns/sock.h. This file: the two calls, made in the other namespace. */
#define _GNU_SOURCE
#include "ns/sock.h"
#include "ns/netns.h"

#include <errno.h>
#include <sys/socket.h>

int hs_socket_at(int netns_fd, int domain, int type, int protocol) {
    int ret, home = hs_netns_enter(netns_fd);

    if (home < 0)
        return home;
    ret = socket(domain, type | SOCK_CLOEXEC, protocol);
    if (ret < 0)
        ret = -errno;
    hs_netns_leave(home);
    return ret;
}

int hs_socketpair_at(int netns_fd, int domain, int type, int protocol, int pair[2]) {
    int ret, home = hs_netns_enter(netns_fd);

    if (home < 0)
        return home;
    ret = socketpair(domain, type | SOCK_CLOEXEC, protocol, pair);
    if (ret < 0)
        ret = -errno;
    hs_netns_leave(home);
    return ret;
}
