// SPDX-License-Identifier: Apache-2.0
/* See input/revoke.h. This file: the walk over a cgroup's processes and their descriptors. */
#define _GNU_SOURCE
#include "input/found.h"

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

#define LOOKS 2048 /* at descriptors in flight, for one process */
#define LEAF 2     /* links of a cgroup that has none below it: two, and one for each (kernfs) */
#define READS 64   /* of one open file's events, which are fewer */
#define STRIDE 64  /* entries of a table between two looks at the clock */
#define NOTE_MS 20 /* of looking for readers */

/* How many events wait in it. Nobody else may have this open file and run: the read would wait
 * forever if he takes the events and O_NONBLOCK away. */
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
static void revoke_aside(struct hs_revoke_job *job, struct hs_files *aside, uint64_t *unread) {
    for (uint32_t i = 0; i < aside->n; i++) {
        if (job->abroad == 0)
            unread[aside->device[i]] += read_out(aside->fd[i]);
        job->at_home = true;
        if (!hs_found_revoke(job, aside->fd[i]))
            close(aside->fd[i]);
    }
    job->at_home = false;
    aside->n = 0;
}

/* It has room: as much as there is for what is put aside. */
static void note_place(struct hs_places *places, int via, int number) {
    int pidfd = fcntl(via, F_DUPFD_CLOEXEC, 0);

    if (pidfd < 0)
        return; /* the kernel knows of more than are noted then, and all are looked through */
    places->pidfd[places->n] = pidfd;
    places->fd[places->n++] = number;
}

/* The descriptors of one table, named by a thread that uses it. via: a pidfd whose process has the
 * same table, or -1. Returns whether the table holds, or may hold, something out of reach: an error
 * is no answer, unless it says that the process or the descriptor has gone. */
static bool scan_table(struct hs_revoke_job *job, const char *path, int via) {
    bool beyond = false;
    struct dirent *entry;
    unsigned entries = 0;
    DIR *dir;

    dir = opendir(path);
    if (!dir)
        return errno != ENOENT && errno != ESRCH;
    while ((entry = readdir(dir)) && (++entries % STRIDE || !hs_found_late(job))) {
        int fd, number = atoi(entry->d_name);
        struct stat st;
        bool wanted;

        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
            continue;
        wanted = hs_found_device(job, &st) < job->n;
        if (!wanted && (job->mode == HS_NOTE_READERS || !S_ISSOCK(st.st_mode)))
            continue;
        fd = via < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, via, number, 0);
        if (fd >= 0) {
            uint32_t before = job->places ? job->aside->n : 0;

            hs_found(job, fd, 0);
            if (job->places && job->aside->n > before)
                note_place(job->places, via, number);
        } else if (via < 0 || (errno != EBADF && errno != ESRCH))
            beyond = beyond || wanted || hs_found_waiting(path, number) > 0;
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
static bool threads_hide(struct hs_revoke_job *job, int pid) {
    struct dirent *entry;
    bool beyond = false;
    char path[64];
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    while (tasks && !hs_found_late(job) && (entry = readdir(tasks))) {
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
static bool is_member(const struct hs_revoke_job *job, int pid) {
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
static bool is_dying(struct hs_revoke_job *job, int pid) {
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
static bool kill_process(struct hs_revoke_job *job, int pid, int pidfd) {
    if (!is_member(job, pid) || syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
        return false;
    job->count->killed++;
    if (job->dying == HS_DYING)
        return false;
    job->pid[job->dying] = pid;
    job->pidfd[job->dying++] = pidfd;
    return true;
}

/* Returns 0, or a negative errno if nothing can be said of it. */
static int scan_process(struct hs_revoke_job *job, int pid) {
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
    if (job->mode != HS_NOTE_READERS && has_threads(pid) && threads_hide(job, pid))
        hides = true;
    if (job->count->hidden != hidden)
        hides = true;
    if (job->mode == HS_NOTE_READERS || !hides || !kill_process(job, pid, pidfd))
        close(pidfd);
    return 0;
}

/* A cgroup that is not the loser's takes longer than its part: it is killed instead. */
static int kill_group(struct hs_revoke_job *job, int parent, const char *name) {
    int group, control, ret = 0;
    struct stat st;

    group = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (group < 0)
        return errno == ENOENT ? 0 : -errno;
    control = openat(group, "cgroup.kill", O_WRONLY | O_CLOEXEC);
    if (control < 0 || write(control, "1", 1) != 1 || fstat(group, &st) < 0)
        ret = errno == ENODEV || errno == ENOENT ? 0 : -errno;
    else if (job->overrun < HS_OVERRUN) {
        job->killed[job->overrun++] = st.st_ino;
        job->count->killed++;
    }
    if (control >= 0)
        close(control);
    close(group);
    return ret;
}

static bool was_killed(const struct hs_revoke_job *job, ino_t group) {
    uint32_t i = 0;

    while (i < job->overrun && job->killed[i] != group)
        i++;
    return i < job->overrun;
}

/* depth: 0 is the cgroup that is walked, 1 one that has a part of the time of its own. */
static int scan_group(struct hs_revoke_job *job, int parent, const char *name, int depth) {
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
        job->until = hs_found_spent(job) + (job->at_home ? job->home_left : job->budget);
    dying = was_killed(job, st.st_ino);
    while (ret == 0 && !dying && !hs_found_late(job) && fscanf(procs, "%d", &pid) == 1)
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
        if (depth == 0 && ret == 0 && job->late && !job->late_at_home &&
            hs_found_spent(job) < job->last) {
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
        job->home_left = job->until - hs_found_spent(job);
    job->at_home = was_at_home;
    return ret;
}

/* ---- what it is for -------------------------------------------------------------------------- */

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

void hs_places_forget(struct hs_places *places) {
    while (places->n > 0)
        close(places->pidfd[--places->n]);
}

/* Whether the kernel knows of nobody who has a device, but for us and its readers: it is told who
 * they are, for a count may be of others. */
static bool are_all(const struct hs_files *readers, const struct hs_clients *clients,
                    const struct hs_ours *ours, uint32_t device) {
    int32_t known[HS_CLIENTS_KNOWN] = {ours[device].fd, ours[device].also};
    uint32_t n = 2;

    for (uint32_t i = 0; i < readers->n; i++) {
        if (readers->device[i] != device)
            continue;
        if (n == HS_CLIENTS_KNOWN)
            return false;
        known[n++] = readers->fd[i];
    }
    return hs_clients_others(clients, known, n) == 0;
}

/* Who is where it was. Whether the kernel knows of nobody else. */
static bool find_again(struct hs_files *readers, const struct hs_places *places,
                       const struct hs_clients *clients, const struct hs_ours *ours,
                       const uint64_t *devices, uint32_t n) {
    const struct hs_revoke_job job = {.devices = devices, .n = n};
    bool all = true;

    for (uint32_t i = 0; i < places->n; i++) {
        int fd = (int)syscall(SYS_pidfd_getfd, places->pidfd[i], places->fd[i], 0);
        uint32_t device;
        struct stat st;

        if (fd < 0)
            continue;
        device = fstat(fd, &st) < 0 ? n : hs_found_device(&job, &st);
        if (device == n || !hs_found_reader(readers, fd, device))
            close(fd);
    }
    for (uint32_t i = 0; all && i < n; i++)
        all = are_all(readers, clients, ours, i);
    return all;
}

int hs_readers_find(struct hs_keeper *keeper, struct hs_files *readers, struct hs_places *places,
                    const char *cgroup, const struct hs_clients *clients,
                    const struct hs_ours *ours, const uint64_t *devices, uint32_t n) {
    struct hs_revoke_count count = {0};
    struct hs_revoke_job job = {.mode = HS_NOTE_READERS,
                                .devices = devices,
                                .n = n,
                                .count = &count,
                                .at_home = true,
                                .aside = readers,
                                .places = places,
                                .spent = {.at = hs_own_ns()},
                                .until = NOTE_MS * 1000000,
                                .last = INT64_MAX};
    int ret = 0;

    readers->n = readers->idle = 0;
    if (hs_frozen(cgroup))
        return 0;
    if (!find_again(readers, places, clients, ours, devices, n)) {
        hs_readers_forget(readers, keeper);
        hs_places_forget(places);
        job.all = last_part(cgroup);
        ret = scan_group(&job, AT_FDCWD, cgroup, 0);
    }
    hs_readers_mark(readers, clients);
    return ret;
}

void hs_readers_mark(struct hs_files *readers, const struct hs_clients *clients) {
    readers->n += readers->idle;
    readers->idle = 0;
    for (uint32_t i = 0; i < readers->n; i++)
        readers->place[i] = hs_clients_place(clients, readers->fd[i]);
}

uint32_t hs_readers_left(struct hs_files *readers, const struct hs_clients *clients) {
    for (uint32_t i = readers->n; i-- > 0;) {
        struct pollfd file = {.fd = readers->fd[i], .events = POLLIN};
        int32_t place = readers->place[i];

        if (poll(&file, 1, 0) > 0 && (file.revents & (POLLIN | POLLHUP)) == POLLIN &&
            (place < 0 || hs_clients_before(clients, file.fd, place) != 0))
            continue;
        readers->fd[i] = readers->fd[--readers->n];
        readers->place[i] = readers->place[readers->n];
        readers->fd[readers->n] = file.fd;
        readers->place[readers->n] = place;
        readers->idle++;
    }
    return readers->n;
}

/* Their programs may have closed them: then ours are the last. */
void hs_readers_forget(struct hs_files *readers, struct hs_keeper *keeper) {
    for (uint32_t i = 0; i < readers->n + readers->idle; i++)
        hs_keeper_add(keeper, readers->fd[i]);
    readers->n = readers->idle = 0;
}

bool hs_revoke_noted(struct hs_keeper *keeper, const struct hs_hold *hold, struct hs_files *noted,
                     const struct hs_clients *clients, const struct hs_ours *ours,
                     const uint64_t *devices, uint32_t n, uint32_t still_ms, uint64_t *unread) {
    const struct hs_revoke_job job = {.devices = devices, .n = n};
    struct input_mask none = {.type = EV_SYN};
    bool nobody = clients->others >= 0 && hs_hold_rests(hold, still_ms);

    for (uint32_t i = 0; nobody && i < noted->n + noted->idle; i++) {
        int fd = noted->fd[i], waiting;
        struct stat st;
        uint32_t device = fstat(fd, &st) < 0 ? n : hs_found_device(&job, &st);

        /* no event reaches it any more, so that what waits is all that goes with it; of one that is
         * there twice, or was revoked before, this fails */
        if (device == n || ioctl(fd, EVIOCSMASK, &none) < 0)
            continue;
        waiting = hs_clients_waiting(clients, fd);
        if (ioctl(fd, EVIOCREVOKE, 0) == 0 && waiting > 0)
            unread[device] += (uint64_t)waiting;
    }
    hs_readers_forget(noted, keeper);
    for (uint32_t i = 0; nobody && i < n; i++)
        nobody = hs_clients_others(clients, (int32_t[]){ours[i].fd, ours[i].also}, 2) == 0;
    return nobody;
}

int hs_revoke(struct hs_keeper *keeper, const struct hs_hold *hold, const char *all,
              const uint64_t *devices, uint32_t n, uint32_t still_ms, uint32_t budget_ms,
              uint32_t passes, struct hs_revoke_count *count, uint64_t *unread) {
    const int64_t budget = (int64_t)budget_ms * 1000000;
    struct hs_revoke_job job = {.devices = devices,
                                .n = n,
                                .keeper = keeper,
                                .count = count,
                                .budget = budget,
                                .home_left = budget,
                                .spent = {.at = hs_own_ns()},
                                .until = budget,
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
    job.mode = still ? HS_REVOKE_AT_REST : HS_REVOKE;
    job.aside = &aside;
    while (ret == 0 && !job.late && !count->clean && count->passes < passes) {
        uint32_t revoked = count->revoked, killed = count->killed;

        job.abroad = 0;
        ret = scan_group(&job, AT_FDCWD, all, 0);
        revoke_aside(&job, &aside, unread);
        if (count->passes++ == 0)
            job.last = hs_found_spent(&job) + budget;
        count->late = job.late;
        count->clean = !job.late && count->killed == killed &&
                       (count->revoked == revoked || (still && job.abroad == 0));
    }
    while (job.dying > 0)
        close(job.pidfd[--job.dying]);
    return ret;
}
