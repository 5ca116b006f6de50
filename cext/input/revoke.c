/* The walk over a cgroup's processes, their descriptors and what waits in their sockets, and what
 * is done to a device found there; the contract is in input/revoke.h. */
#define _GNU_SOURCE
#include "input/revoke.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/input.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 6      /* sockets inside sockets: the kernel allows four */
#define MESSAGES 512 /* looked at in one queue */
#define LOOKS 2048   /* at descriptors in flight, for one process */
#define SCM_MAX 253  /* descriptors of one message: the kernel's limit */
#define LEAF 2       /* links of a cgroup that has none below it: two, and one for each (kernfs) */
#define READS 64     /* of one open file's events, which are fewer */
#define STRIDE 64    /* entries of a table between two looks at the clock */
#define OVERRUN 16   /* cgroups that are remembered because they were killed */
#define NOTE_MS 20   /* of looking for readers */
#define DYING 64     /* processes that are remembered because they were killed */

enum mode {
    NOTE_READERS, /* put aside who has a device open; nothing is revoked, sockets are passed over */
    REVOKE,       /* revoke each file where it is found */
    REVOKE_AT_REST, /* the loser is at rest: its files are put aside, and revoked after the pass */
};

/* A walk over processes. */
struct job {
    enum mode mode;
    const uint64_t *devices;
    uint32_t n;
    struct hs_keeper *keeper;
    struct hs_revoke_count *count;
    const char *all;        /* the name of the cgroup that is walked */
    struct stat loser;      /* its directory */
    bool at_home;           /* the pass is in the loser's cgroup */
    uint32_t abroad;        /* found anywhere else by this pass */
    uint32_t looks;         /* left for this process */
    int64_t budget;         /* for each cgroup below the one that is walked; ns of our own time */
    int64_t home_left;      /* of it for the loser's, over all passes */
    int64_t until;          /* of our time: the end of this cgroup's part */
    int64_t last;           /* the end of all passes but the first */
    bool late;              /* one of these ends has come: nothing more is looked at */
    bool late_at_home;      /* in the loser's cgroup */
    uint32_t dying;         /* processes that were killed, and take their time to end */
    int pid[DYING];         /* their numbers, which are nobody else's until they have ended */
    int pidfd[DYING];       /* by which that is known; ours to close */
    uint32_t overrun;       /* how many took longer, and were killed */
    ino_t killed[OVERRUN];  /* they: their processes run no instruction any more */
    struct hs_files *aside; /* but for REVOKE */
};

/* Which of our devices it is; n: none. */
static uint32_t which(const struct job *job, const struct stat *st) {
    uint32_t i = 0;

    if (!S_ISCHR(st->st_mode))
        return job->n;
    while (i < job->n && job->devices[i] != st->st_rdev)
        i++;
    return i;
}

/* Whether the descriptor is the keeper's now. */
static bool revoke_fd(struct job *job, int fd) {
    int version;

    /* ENODEV where it was revoked before: then it does not count again */
    if (ioctl(fd, EVIOCGVERSION, &version) < 0 || ioctl(fd, EVIOCREVOKE, 0) < 0)
        return false;
    job->count->revoked++;
    job->abroad += !job->at_home;
    hs_keeper_add(job->keeper, fd);
    return true;
}

/* Whether it is put aside. Those of a loser at rest are, until the pass is over: no event reaches
 * them any more (the mask of types lets none through). */
static bool put_aside(struct job *job, int fd, uint32_t device) {
    struct input_mask none = {.type = EV_SYN};

    if (job->mode == REVOKE || job->aside->n == HS_READERS || !job->at_home)
        return false;
    if (job->mode == REVOKE_AT_REST && ioctl(fd, EVIOCSMASK, &none) < 0)
        return false;
    job->aside->device[job->aside->n] = device;
    job->aside->fd[job->aside->n++] = fd;
    return true;
}

/* How many events wait in it. Nobody else may have this open file and run: the read would wait
 * forever where he takes the events and O_NONBLOCK away. */
static uint64_t read_out(int fd) {
    struct input_event ev[64];
    uint64_t events = 0;
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return 0;
    for (int i = 0; i < READS; i++) {
        ssize_t size = read(fd, ev, sizeof(ev));

        if (size <= 0)
            break;
        for (size_t k = 0; k < (size_t)size / sizeof(ev[0]); k++)
            events += ev[k].type != EV_SYN;
    }
    return events;
}

/* The pass is over: revoke what was put aside. */
static void revoke_aside(struct job *job, struct hs_files *aside, uint64_t *unread) {
    for (uint32_t i = 0; i < aside->n; i++) {
        if (job->abroad == 0)
            unread[aside->device[i]] += read_out(aside->fd[i]);
        job->at_home = true;
        if (!revoke_fd(job, aside->fd[i]))
            close(aside->fd[i]);
    }
    job->at_home = false;
    aside->n = 0;
}

/* This thread's own time: others' load is not the fault of who is looked at. */
static int64_t own_ns(void) {
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool is_late(struct job *job) {
    int64_t now = own_ns();

    job->late = job->late || now > job->until || now > job->last;
    return job->late;
}

static void look_into(struct job *job, int fd, int depth);

/* A descriptor of ours, which ends here: a copy of one the process has, or has in flight. */
static void handle(struct job *job, int fd, int depth) {
    struct stat st;

    if (fstat(fd, &st) == 0) {
        uint32_t device = which(job, &st);

        if (device < job->n &&
            (put_aside(job, fd, device) || (job->mode != NOTE_READERS && revoke_fd(job, fd))))
            return;
        if (S_ISSOCK(st.st_mode))
            look_into(job, fd, depth + 1);
    }
    close(fd);
}

/* How many descriptors wait in a socket, as its /proc entry says (scm_fds). table: the /proc
 * directory of the descriptors that `fd` is one of. */
static unsigned in_flight(const char *table, int fd) {
    char path[80], line[128];
    unsigned count = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%sinfo/%d", table, fd);
    file = fopen(path, "re");
    if (!file)
        return 0;
    while (fgets(line, sizeof(line), file))
        if (sscanf(line, "scm_fds: %u", &count) == 1)
            break;
    fclose(file);
    return count;
}

/* Every descriptor that waits in a UNIX socket's queue, without taking it out of it. */
static void look_into(struct job *job, int sock, int depth) {
    struct pollfd queue = {.fd = sock, .events = POLLIN};
    unsigned waiting, seen = 0;
    int offset = 0, was = -1;
    socklen_t size = sizeof(was);

    if (poll(&queue, 1, 0) <= 0 || !(queue.revents & POLLIN))
        return; /* nothing waits in it: this is quicker than what follows */
    waiting = in_flight("/proc/self/fd", sock);
    if (waiting == 0)
        return;
    if (depth > DEPTH || getsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &was, &size) < 0 ||
        setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0) {
        job->count->hidden += waiting;
        return;
    }
    for (unsigned i = 0; i < MESSAGES && seen < waiting && job->looks > 0; i++) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(SCM_MAX * sizeof(int))];
        } control;
        static char bytes[65536]; /* of no interest; one caller at a time */
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};

        if (recvmsg(sock, &msg, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
            break;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                continue;
            for (size_t k = 0; k < n; k++) {
                int fd;

                memcpy(&fd, CMSG_DATA(c) + k * sizeof(fd), sizeof(fd));
                if (job->looks == 0) {
                    close(fd);
                    continue;
                }
                job->looks--;
                seen++;
                handle(job, fd, depth);
            }
        }
    }
    setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &was, sizeof(was));
    if (seen < waiting)
        job->count->hidden += waiting - seen;
}

/* The descriptors of one table, named by a thread that uses it. via: a pidfd whose process has the
 * same table, or -1. Returns whether the table holds, or may hold, something out of reach: an error
 * is no answer, unless it says that the process or the descriptor has gone. */
static bool scan_table(struct job *job, const char *path, int via) {
    bool beyond = false;
    struct dirent *entry;
    unsigned entries = 0;
    DIR *dir;

    dir = opendir(path);
    if (!dir)
        return errno != ENOENT && errno != ESRCH;
    while ((entry = readdir(dir)) && (++entries % STRIDE || !is_late(job))) {
        int fd, number = atoi(entry->d_name);
        struct stat st;
        bool wanted;

        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
            continue;
        wanted = which(job, &st) < job->n;
        if (!wanted && (job->mode == NOTE_READERS || !S_ISSOCK(st.st_mode)))
            continue;
        fd = via < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, via, number, 0);
        if (fd >= 0)
            handle(job, fd, 0);
        else if (via < 0 || (errno != EBADF && errno != ESRCH))
            beyond = beyond || wanted || in_flight(path, number) > 0;
    }
    closedir(dir);
    return beyond;
}

static bool has_threads(int pid) {
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    return stat(path, &st) < 0 || st.st_nlink != 3; /* 2, and one for each thread */
}

/* Whether a thread with a descriptor table of its own has a device. The filter of a VM
 * (vm/filter.h) lets no thread make one; but the table of a process whose first thread has ended is
 * out of that one's, and so of the pidfd's, reach. */
static bool threads_hide(struct job *job, int pid) {
    struct dirent *entry;
    bool beyond = false;
    char path[64];
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    while (tasks && !is_late(job) && (entry = readdir(tasks))) {
        int tid = atoi(entry->d_name);

        if (tid <= 0 || tid == pid || syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) == 0)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%d/fd", pid, tid);
        beyond = scan_table(job, path, -1) || beyond;
    }
    if (tasks)
        closedir(tasks);
    return beyond;
}

/* Whether a process is in the cgroup that is walked, or below it. Its number may be that of a new
 * process of somebody else's since it was listed; what its pidfd stands for stays. */
static bool is_member(const struct job *job, int pid) {
    char path[64], line[PATH_MAX];
    size_t length = strlen(job->all);
    bool member = false;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
    file = fopen(path, "re");
    while (file && !member && fgets(line, sizeof(line), file))
        for (char *at = strncmp(line, "0::", 3) == 0 ? strchr(line, '/') : NULL; at && !member;
             at = strchr(at + 1, '/'))
            member = strncmp(at + 1, job->all, length) == 0 && strchr("/\n", at[1 + length]);
    if (file)
        fclose(file);
    return member;
}

/* Whether a process was killed by an earlier pass: it runs no instruction any more. */
static bool is_dying(struct job *job, int pid) {
    uint32_t i = 0;

    while (i < job->dying && job->pid[i] != pid)
        i++;
    if (i == job->dying)
        return false;
    if (syscall(SYS_pidfd_send_signal, job->pidfd[i], 0, NULL, 0) == 0)
        return true;
    close(job->pidfd[i]); /* it has ended, and this is another one */
    job->pid[i] = job->pid[--job->dying];
    job->pidfd[i] = job->pidfd[job->dying];
    return false;
}

/* Returns whether its pidfd is kept. */
static bool kill_process(struct job *job, int pid, int pidfd) {
    if (!is_member(job, pid) || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
        return false;
    job->count->killed++;
    if (job->dying == DYING)
        return false;
    job->pid[job->dying] = pid;
    job->pidfd[job->dying++] = pidfd;
    return true;
}

/* Returns 0, or a negative errno if nothing can be said of it. */
static int scan_process(struct job *job, int pid) {
    uint32_t hidden = job->count->hidden;
    char path[64];
    bool hides;
    int pidfd;

    if (is_dying(job, pid))
        return 0;
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? 0 : -errno;
    job->count->processes++;
    job->looks = LOOKS;
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    hides = scan_table(job, path, pidfd);
    if (job->mode != NOTE_READERS && has_threads(pid) && threads_hide(job, pid))
        hides = true;
    if (job->count->hidden != hidden)
        hides = true;
    if (job->mode == NOTE_READERS || !hides || !kill_process(job, pid, pidfd))
        close(pidfd);
    return 0;
}

/* A cgroup that is not the loser's takes longer than its part: it is killed instead. */
static int kill_group(struct job *job, int parent, const char *name) {
    int group, control, ret = 0;
    struct stat st;

    group = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (group < 0)
        return errno == ENOENT ? 0 : -errno;
    control = openat(group, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (control < 0 || write(control, "1", 1) != 1 || fstat(group, &st) < 0)
        ret = errno == ENODEV || errno == ENOENT ? 0 : -errno;
    else if (job->overrun < OVERRUN) {
        job->killed[job->overrun++] = st.st_ino;
        job->count->killed++;
    }
    if (control >= 0)
        close(control);
    close(group);
    return ret;
}

static bool was_killed(const struct job *job, ino_t group) {
    uint32_t i = 0;

    while (i < job->overrun && job->killed[i] != group)
        i++;
    return i < job->overrun;
}

/* depth: 0 is the cgroup that is walked, 1 one that has a part of the time of its own. */
static int scan_group(struct job *job, int parent, const char *name, int depth) {
    struct dirent *entry;
    FILE *procs = NULL;
    DIR *dir = NULL;
    struct stat st;
    bool was_at_home = job->at_home, dying;
    int fd, file, pid, ret = 0;

    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    file = openat(fd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    procs = file < 0 ? NULL : fdopen(file, "r");
    if (!procs) {
        ret = errno == ENODEV ? 0 : -errno; /* ENODEV: it was removed meanwhile */
        close(fd);
        return ret;
    }
    if (fstat(fd, &st) == 0 && st.st_dev == job->loser.st_dev && st.st_ino == job->loser.st_ino)
        job->at_home = true;
    if (depth == 1)
        job->until = own_ns() + (job->at_home ? job->home_left : job->budget);
    dying = was_killed(job, st.st_ino);
    while (ret == 0 && !dying && !is_late(job) && fscanf(procs, "%d", &pid) == 1)
        if (pid > 0)
            ret = scan_process(job, pid);
    fclose(procs);
    if (ret < 0 || dying || job->late || (fstat(fd, &st) == 0 && st.st_nlink == LEAF)) {
        close(fd); /* its some fifty files need no look */
        goto out;
    }
    dir = fdopendir(fd);
    if (!dir) {
        ret = -errno;
        close(fd);
    }
    while (dir && ret == 0 && !job->late && depth < 32 && (entry = readdir(dir))) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        ret = scan_group(job, fd, entry->d_name, depth + 1);
        if (depth == 0 && ret == 0 && job->late && !job->late_at_home && own_ns() < job->last) {
            ret = kill_group(job, fd, entry->d_name);
            job->late = false;
            job->until = INT64_MAX;
        }
    }
    if (dir)
        closedir(dir);
out:
    job->late_at_home = job->late && job->at_home;
    if (depth == 1 && job->at_home)
        job->home_left = job->until - own_ns();
    job->at_home = was_at_home;
    return ret;
}

/* ---- what it is for -------------------------------------------------------------------------- */

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int hs_readers_find(struct hs_files *readers, const char *cgroup, const uint64_t *devices,
                    uint32_t n) {
    struct hs_revoke_count count = {0};
    struct job job = {.mode = NOTE_READERS,
                      .devices = devices,
                      .n = n,
                      .count = &count,
                      .at_home = true,
                      .aside = readers,
                      .until = own_ns() + NOTE_MS * 1000000,
                      .last = INT64_MAX};

    readers->n = 0;
    job.all = last_part(cgroup);
    return hs_frozen(cgroup) ? 0 : scan_group(&job, AT_FDCWD, cgroup, 0);
}

uint32_t hs_readers_left(struct hs_files *readers, struct hs_keeper *keeper) {
    for (uint32_t i = readers->n; i-- > 0;) {
        struct pollfd file = {.fd = readers->fd[i], .events = POLLIN};

        if (poll(&file, 1, 0) > 0 && (file.revents & (POLLIN | POLLHUP)) == POLLIN)
            continue;
        hs_keeper_add(keeper, file.fd); /* its program may have closed it: then ours is the last */
        readers->fd[i] = readers->fd[--readers->n];
    }
    return readers->n;
}

void hs_readers_forget(struct hs_files *readers, struct hs_keeper *keeper) {
    while (readers->n > 0)
        hs_keeper_add(keeper, readers->fd[--readers->n]);
}

int hs_revoke(struct hs_keeper *keeper, const struct hs_hold *hold, const char *all,
              const uint64_t *devices, uint32_t n, uint32_t still_ms, uint32_t budget_ms,
              uint32_t passes, struct hs_revoke_count *count, uint64_t *unread) {
    const int64_t budget = (int64_t)budget_ms * 1000000;
    struct job job = {.devices = devices,
                      .n = n,
                      .keeper = keeper,
                      .count = count,
                      .budget = budget,
                      .home_left = budget,
                      .until = own_ns() + budget,
                      .last = INT64_MAX};
    struct hs_files aside = {0};
    bool still;
    int ret = 0;

    memset(count, 0, sizeof(*count));
    job.all = last_part(all);
    if (hold->group >= 0 && fstat(hold->group, &job.loser) < 0)
        return -errno;
    still = hs_hold_rests(hold, still_ms);
    count->restless = !still;
    job.mode = still ? REVOKE_AT_REST : REVOKE;
    job.aside = &aside;
    while (ret == 0 && !job.late && !count->clean && count->passes < passes) {
        uint32_t revoked = count->revoked, killed = count->killed;

        job.abroad = 0;
        ret = scan_group(&job, AT_FDCWD, all, 0);
        revoke_aside(&job, &aside, unread);
        if (count->passes++ == 0)
            job.last = own_ns() + budget;
        count->late = job.late;
        count->clean = !job.late && count->killed == killed &&
                       (count->revoked == revoked || (still && job.abroad == 0));
    }
    while (job.dying > 0)
        close(job.pidfd[--job.dying]);
    return ret;
}
