/* See sysctl.h. */
#define _GNU_SOURCE
#include "sysctl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int put(const char *path, const char *value) {
    size_t length = strlen(value);
    int fd, ret = 0;

    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, value, length) != (ssize_t)length)
        ret = -errno;
    close(fd);
    return ret;
}

int hs_sysctl(int netns_fd, const char *const *paths, const char *const *values, size_t count,
              size_t *failed) {
    int ret = 0, home;

    *failed = count;
    home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home < 0)
        return -errno;
    if (setns(netns_fd, CLONE_NEWNET) < 0) {
        ret = -errno;
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        ret = put(paths[i], values[i]);
        if (ret < 0) {
            *failed = i;
            break;
        }
    }
    if (setns(home, CLONE_NEWNET) < 0)
        abort();
out:
    close(home);
    return ret;
}
