// SPDX-License-Identifier: Apache-2.0
/* hostsim-os-agent: the resident agent of an OS; the daemon starts one in each
 * (hostsim/kmc/agents.py).
 *
 * Speaks the messages of input/wire.h over the OS's /run/hostsim/agent.sock
 * (SOCK_SEQPACKET): says HELLO, answers RELEASE with RELEASED and PING with BEAT, and has the OS's
 * hook run when STATE says foreground or background (commands for sh in HOSTSIM_ON_FOREGROUND,
 * HOSTSIM_ON_BACKGROUND), one after the other, in a process of its own. Ends when the KMC ends the
 * connection. In C, for a flip waits for it: no interpreter, 1 MB less.
 *
 *   hostsim-os-agent [SOCKET] */
#define _GNU_SOURCE
#include "input/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int say(int sock, enum hs_wire_type type, uint32_t sequence) {
    struct hs_wire_header h = hs_wire_header(type, sequence);

    return send(sock, &h, sizeof(h), MSG_NOSIGNAL) == (ssize_t)sizeof(h) ? 0 : -errno;
}

/* Whether a datagram of this size is a message of this version. */
static bool is_message(const struct hs_wire_message *m, ssize_t size) {
    struct hs_wire_header right = hs_wire_header(HS_WIRE_OK, 0);

    return size >= (ssize_t)sizeof(m->header) &&
           memcmp(m->header.magic, right.magic, sizeof(right.magic)) == 0 &&
           m->header.version == right.version;
}

/* Runs what comes out of `states` ('f' or 'b'), one after the other: the hook of a change never
 * overtakes that of the change before. Ends with the agent. */
static void run_hooks(int states) {
    char state;

    signal(SIGCHLD, SIG_DFL);
    while (read(states, &state, 1) == 1) {
        const char *command =
            getenv(state == 'f' ? "HOSTSIM_ON_FOREGROUND" : "HOSTSIM_ON_BACKGROUND");
        pid_t pid = command ? fork() : -1;
        int status = 0;

        if (pid == 0) {
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(127);
        }
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (status != 0) /* an exit status, or a signal */
            fprintf(stderr, "hostsim-os-agent: %s ended with %s %d\n",
                    state == 'f' ? "on_foreground" : "on_background",
                    WIFEXITED(status) ? "status" : "signal",
                    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    }
}

/* The process that runs the hooks, made if there are any; the end of a pipe to it, which never
 * blocks, or -1. An OS without its hooks, if there is no room for the process, flips all the
 * same. */
static int start_hooks(void) {
    int ends[2];

    if (!getenv("HOSTSIM_ON_FOREGROUND") && !getenv("HOSTSIM_ON_BACKGROUND"))
        return -1;
    if (pipe2(ends, O_CLOEXEC) < 0) {
        perror("hostsim-os-agent: no hooks: pipe");
        return -1;
    }
    switch (fork()) {
    case -1:
        perror("hostsim-os-agent: no hooks: fork");
        close(ends[0]);
        close(ends[1]);
        return -1;
    case 0:
        close(ends[1]);
        run_hooks(ends[0]);
        _exit(0);
    }
    close(ends[0]);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    return ends[1];
}

static void hook(int hooks, const char *state, size_t size) {
    ssize_t sent = 0;

    if (hooks < 0)
        return;
    if (size == strlen("foreground") && memcmp(state, "foreground", size) == 0)
        sent = write(hooks, "f", 1);
    else if (size == strlen("background") && memcmp(state, "background", size) == 0)
        sent = write(hooks, "b", 1);
    if (sent < 0) /* thousands wait already behind one that does not end */
        fprintf(stderr, "hostsim-os-agent: a hook was left out: %s\n", strerror(errno));
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = HS_WIRE_PATH};
    struct hs_wire_message m;
    int sock, hooks;

    if (argc > 1)
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
    hooks = start_hooks();
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
        fprintf(stderr, "hostsim-os-agent: %s: %s\n", address.sun_path, strerror(errno));
        return 1;
    }
    if (say(sock, HS_WIRE_HELLO, 0) < 0)
        return 1;
    for (;;) {
        ssize_t size = recv(sock, &m, sizeof(m), 0);

        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            return 0;
        if (!is_message(&m, size))
            return 1;
        if (m.header.type == HS_WIRE_RELEASE && say(sock, HS_WIRE_RELEASED, m.header.sequence) < 0)
            return 1;
        if (m.header.type == HS_WIRE_PING && say(sock, HS_WIRE_BEAT, m.header.sequence) < 0)
            return 1;
        if (m.header.type == HS_WIRE_STATE)
            hook(hooks, m.body, (size_t)size - sizeof(m.header));
    }
}
