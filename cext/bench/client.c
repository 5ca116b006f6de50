// SPDX-License-Identifier: Apache-2.0
/* A program that uses input devices of a seat, for `hostsim bench flip`: the same on both sides.
 * And one that works the devices.
 *
 *   hostsim-bench-client agent        in an OS: its devices are the nodes in /dev/input
 *   hostsim-bench-client seat NODE... a libseat client of a seatd
 *   hostsim-bench-client feed RATE MOST FD...
 *       moves each uinput device FD by 1, 2, 3, ... along REL_X, RATE times a second, and presses
 *       or releases its BTN_LEFT with every 8th move; when it is late, up to MOST moves at once
 *
 * On standard output, one line each, times in nanoseconds of CLOCK_MONOTONIC:
 *   ready T       it runs
 *   asked T       it asked for a switch, at T (a line `switch NAME` on standard input)
 *   first T       the first event after a line `fresh` was readable, at T
 *   last N        on a line `last`: the last value of REL_X that it has read
 *   stuck N       on a line `stuck`: presses of a button that it thought pressed, releases of one
 *                 that it thought released, and buttons that it thinks pressed now; but for what
 *                 it was told twice: see ask_down
 *   dropped N     on a line `dropped`: overflows of its readers' buffers (SYN_DROPPED)
 *   numbers N...  on a line `numbers`: all values of REL_X that it has read
 *   gaps A B ...  on a line `gaps`: for each overflow, the values before and after it, 0 if the
 *                 device had given none before; what is between may have been in the buffer
 *   sent N        (feed) on a line `sent`: the last move; on a line `calm`: the same, after the
 *                 button is released and the last move has been made
 * Devices are opened as soon as they are there, and read from until they are gone; what was pressed
 * on one that goes counts as released, as for libinput. */
#define _GNU_SOURCE
#include "input/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_LIBSEAT
#include <libseat.h>
#endif

#define MOST 64
#define LATE_MOST 16 /* moves that are made up for; a longer stop is none of a typist's */

static int fds[MOST], ids[MOST];
static char names[MOST][32];
static bool held[MOST];    /* its BTN_LEFT, as far as its reader knows */
static bool asked[MOST];   /* that was asked for, and nothing has been read since */
static bool gap[MOST];     /* its buffer overflowed, and it has given no value since */
static int32_t last[MOST]; /* value it gave, 0: none */
static int n_fds;
static unsigned long long stuck, dropped;
struct values {
    int32_t *value;
    size_t n, room;
};
static struct values numbers, gaps; /* of REL_X, as they were read; around overflows, in pairs */
static bool seated;                 /* the devices are a libseat's */
static bool fresh;                  /* no event since the devices came */

static uint64_t now(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char *what) {
    printf("%s %llu\n", what, (unsigned long long)now());
    fflush(stdout);
}

static void answer(const char *what, unsigned long long value) {
    printf("%s %llu\n", what, value);
    fflush(stdout);
}

/* Ask the device whether its button is down. The kernel's answer is ahead of its events by the
 * frame that is under way: the button's event in that one is old news. */
static void ask_down(int i) {
    uint8_t keys[(KEY_CNT + 7) / 8] = {0};

    held[i] =
        ioctl(fds[i], EVIOCGKEY(sizeof(keys)), keys) >= 0 && keys[BTN_LEFT / 8] >> BTN_LEFT % 8 & 1;
    asked[i] = true;
}

/* fds[n_fds] has been opened. */
static void came(void) {
    ask_down(n_fds); /* it may have been pressed since the OS has it, before it was opened */
    gap[n_fds] = false;
    last[n_fds] = 0;
    n_fds++;
}

static void drop(int i) {
    if (fds[i] >= 0)
        close(fds[i]);
    n_fds--;
    fds[i] = fds[n_fds];
    ids[i] = ids[n_fds];
    held[i] = held[n_fds];
    asked[i] = asked[n_fds];
    gap[i] = gap[n_fds];
    last[i] = last[n_fds];
    memcpy(names[i], names[n_fds], sizeof(names[i]));
}

static void note(struct values *v, int32_t value) {
    if (v->n == v->room) {
        v->room = v->room ? v->room * 2 : 4096;
        v->value = realloc(v->value, v->room * sizeof(*v->value));
        if (!v->value)
            exit(1);
    }
    v->value[v->n++] = value;
}

static void tell(const char *what, const struct values *v) {
    printf("%s", what);
    for (size_t i = 0; i < v->n; i++)
        printf(" %d", v->value[i]);
    printf("\n");
    fflush(stdout);
}

static void moved(int i, int32_t number) {
    if (gap[i]) {
        note(&gaps, last[i]);
        note(&gaps, number);
        gap[i] = false;
    }
    last[i] = number;
    note(&numbers, number);
}

static void drain(int i) {
    struct input_event ev[64];
    ssize_t size = read(fds[i], ev, sizeof(ev));
    bool overflow = false;

    for (ssize_t k = 0; k < size / (ssize_t)sizeof(ev[0]); k++)
        if (ev[k].type == EV_REL && ev[k].code == REL_X)
            moved(i, ev[k].value);
        else if (ev[k].type == EV_KEY && !overflow) {
            stuck += held[i] == !!ev[k].value && !asked[i];
            held[i] = ev[k].value;
            asked[i] = false;
        } else if (ev[k].type == EV_SYN && ev[k].code == SYN_DROPPED) {
            dropped++;
            overflow = gap[i] = true;
        }
    if (size > 0)
        asked[i] = false;
    if (overflow) /* also takes older news of keys out of the buffer (EVIOCGKEY) */
        ask_down(i);
    if (size > 0 && fresh) {
        say("first");
        fresh = false;
    } else if (size < 0 && errno != EAGAIN && errno != EINTR && !seated)
        drop(i); /* a seat's is closed when the seat says so */
}

/* A line on standard input; 1: it is a switch, to *name; -1: there are no more. */
static int command(const char **name) {
    static char line[64];

    if (!fgets(line, sizeof(line), stdin))
        return -1;
    line[strcspn(line, "\n")] = 0;
    if (strcmp(line, "fresh") == 0) {
        fresh = true;
    } else if (strcmp(line, "numbers") == 0) {
        tell("numbers", &numbers);
    } else if (strcmp(line, "gaps") == 0) {
        tell("gaps", &gaps);
    } else if (strcmp(line, "last") == 0) {
        answer("last", numbers.n ? (unsigned long long)numbers.value[numbers.n - 1] : 0);
    } else if (strcmp(line, "dropped") == 0) {
        answer("dropped", dropped);
    } else if (strcmp(line, "stuck") == 0) {
        unsigned long long all = stuck;

        for (int i = 0; i < n_fds; i++)
            all += held[i];
        answer("stuck", all);
    }
    *name = line + strlen("switch ");
    return strncmp(line, "switch ", strlen("switch ")) == 0;
}

/* ---- agent --------------------------------------------------------------------------------- */

static bool known(const char *name) {
    for (int i = 0; i < n_fds; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static void look(void) {
    DIR *dir = opendir("/dev/input");
    struct dirent *e;

    while (dir && (e = readdir(dir)) && n_fds < MOST) {
        if (strncmp(e->d_name, "event", 5) != 0 || known(e->d_name))
            continue;
        fds[n_fds] = openat(dirfd(dir), e->d_name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fds[n_fds] < 0)
            continue;
        snprintf(names[n_fds], sizeof(names[0]), "%.30s", e->d_name);
        came();
    }
    if (dir)
        closedir(dir);
}

static void ask(int sock, const char *name) {
    struct hs_wire_message m = {.header = hs_wire_header(HS_WIRE_FLIP, 1)};
    size_t n = strlen(name);

    if (n > sizeof(m.body))
        n = sizeof(m.body);
    memcpy(m.body, name, n);
    say("asked");
    if (send(sock, &m, sizeof(m.header) + n, 0) < 0)
        exit(1);
}

static int agent(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = HS_WIRE_PATH};
    int notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    char buffer[sizeof(struct hs_wire_message)];
    const char *name;

    if (connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        inotify_add_watch(notify, "/dev/input", IN_CREATE | IN_ATTRIB) < 0)
        return 1;
    look();
    say("ready");
    for (;;) {
        struct pollfd p[MOST + 3] = {{.fd = 0, .events = POLLIN},
                                     {.fd = notify, .events = POLLIN},
                                     {.fd = sock, .events = POLLIN}};
        int n = n_fds;

        for (int i = 0; i < n; i++)
            p[3 + i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        if (poll(p, (nfds_t)n + 3, -1) < 0)
            continue;
        for (int i = n - 1; i >= 0; i--)
            if (p[3 + i].revents)
                drain(i);
        if (p[1].revents) {
            while (read(notify, buffer, sizeof(buffer)) > 0)
                ;
            look();
        }
        if (p[2].revents && recv(sock, buffer, sizeof(buffer), 0) <= 0)
            return 0;
        if (p[0].revents) {
            int what = command(&name);

            if (what < 0)
                return 0;
            if (what > 0)
                ask(sock, name);
        }
    }
}

/* ---- seat ---------------------------------------------------------------------------------- */

#ifdef HAVE_LIBSEAT
static char **nodes;
static int n_nodes;

static void enable(struct libseat *seat, void *data) {
    (void)data;
    for (int i = 0; i < n_nodes && n_fds < MOST; i++) {
        ids[n_fds] = libseat_open_device(seat, nodes[i], &fds[n_fds]);
        if (ids[n_fds] >= 0) {
            fcntl(fds[n_fds], F_SETFL, O_NONBLOCK);
            came();
        }
    }
}

static void disable(struct libseat *seat, void *data) {
    (void)data;
    libseat_disable_seat(seat);
    while (n_fds > 0) {
        libseat_close_device(seat, ids[0]);
        drop(0);
    }
}

static int seat_client(void) {
    static const struct libseat_seat_listener listener = {.enable_seat = enable,
                                                          .disable_seat = disable};
    struct libseat *seat = libseat_open_seat(&listener, NULL);
    const char *name;

    if (!seat)
        return 1;
    libseat_dispatch(seat, 0);
    say("ready");
    for (;;) {
        struct pollfd p[MOST + 2] = {{.fd = 0, .events = POLLIN},
                                     {.fd = libseat_get_fd(seat), .events = POLLIN}};
        int n = n_fds, done;

        for (int i = 0; i < n; i++)
            p[2 + i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        if (poll(p, (nfds_t)n + 2, -1) < 0)
            continue;
        for (int i = n - 1; i >= 0; i--)
            if (p[2 + i].revents)
                drain(i);
        if (p[1].revents)
            while ((done = libseat_dispatch(seat, 0)) != 0) /* also what came during its calls */
                if (done < 0)
                    return 1;
        if (p[0].revents) {
            int what = command(&name);

            if (what < 0)
                return 0;
            if (what > 0) {
                say("asked");
                libseat_switch_session(seat, atoi(name));
            }
        }
    }
}
#endif

/* ---- feed ---------------------------------------------------------------------------------- */

static bool move(int fd, int32_t number, int button) {
    struct input_event ev[3] = {{.type = EV_REL, .code = REL_X, .value = number}};
    size_t n = 1;

    if (button >= 0)
        ev[n++] = (struct input_event){.type = EV_KEY, .code = BTN_LEFT, .value = button};
    ev[n++] = (struct input_event){.type = EV_SYN, .code = SYN_REPORT};
    return write(fd, ev, n * sizeof(ev[0])) == (ssize_t)(n * sizeof(ev[0]));
}

static int feed(long rate, uint64_t most, char **devices, int n) {
    struct itimerspec each = {.it_interval = {.tv_nsec = 1000000000 / rate},
                              .it_value = {.tv_nsec = 1000000000 / rate}};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    char line[64];
    bool pressed = false, calm = false;
    int32_t sent = 0;
    uint64_t late = 0; /* moves */

    if (timer < 0 || timerfd_settime(timer, 0, &each, NULL) < 0)
        return 1;
    say("ready");
    for (;;) {
        struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.fd = timer, .events = POLLIN}};
        uint64_t due = 0;

        if (poll(p, 2, -1) < 0)
            continue;
        if (p[1].revents && read(timer, &due, sizeof(due)) < 0)
            due = 0;
        late = late + due < LATE_MOST ? late + due : LATE_MOST;
        for (uint64_t burst = 0; late > 0 && burst < most && !calm; burst++) {
            int button = -1;

            late--;
            if (++sent % 8 == 0)
                button = pressed = !pressed;
            for (int i = 0; i < n; i++)
                if (!move(atoi(devices[i]), sent, button))
                    return 1;
        }
        if (most == 1)
            late = 0;
        if (!p[0].revents)
            continue;
        if (!fgets(line, sizeof(line), stdin))
            return 0;
        if (strcmp(line, "calm\n") == 0 && !calm) {
            calm = true;
            sent++;
            for (int i = 0; i < n; i++)
                if (!move(atoi(devices[i]), sent, 0))
                    return 1;
        }
        answer("sent", (unsigned long long)sent);
    }
}

int main(int argc, char **argv) {
    setvbuf(stdin, NULL, _IONBF, 0); /* else poll would not see a line that was read ahead */
    if (argc == 2 && strcmp(argv[1], "agent") == 0)
        return agent();
#ifdef HAVE_LIBSEAT
    if (argc > 2 && strcmp(argv[1], "seat") == 0) {
        seated = true;
        nodes = argv + 2;
        n_nodes = argc - 2;
        return seat_client();
    }
#endif
    if (argc > 4 && strcmp(argv[1], "feed") == 0 && atol(argv[2]) > 0 && atol(argv[3]) > 0)
        return feed(atol(argv[2]), (uint64_t)atol(argv[3]), argv + 4, argc - 4);
    fprintf(stderr, "usage: %s agent | seat NODE... | feed RATE MOST FD...\n", argv[0]);
    return 2;
}
