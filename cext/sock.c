/* See sock.h. */
#define _GNU_SOURCE
#include "sock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int hs_socket_at(int netns_fd, int domain, int type, int protocol) {
    int ret, home;

    home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return -errno;
    if (setns(netns_fd, CLONE_NEWNET) < 0) {
        ret = -errno;
        goto out;
    }
    ret = socket(domain, type | SOCK_CLOEXEC, protocol);
    if (ret < 0)
        ret = -errno;
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
out:
    close(home);
    return ret;
}

int hs_netns_new(void) {
    int ret, home;

    home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return -errno;
    if (unshare(CLONE_NEWNET) < 0) {
        ret = -errno;
        goto out;
    }
    ret = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (ret < 0)
        ret = -errno;
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
out:
    close(home);
    return ret;
}
