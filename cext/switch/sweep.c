// SPDX-License-Identifier: Apache-2.0
/* See switch/sweep.h. This file: pages of keys, and a run of the program for each. */
#include "switch/sweep.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <bpf/bpf.h>

#include "bpf/run.h"

/* A page as the kernel gives it out. The values are of no use here: the program reads them anew. */
struct page {
    union hs_swept keys;
    union {
        struct hs_flow flows[HS_SWEPT];
        struct hs_conn conns[HS_SWEPT];
        uint8_t datagrams[HS_SWEPT][HS_FIRST_SIZE];
    } values;
};

static int sweep_table(const struct hs_swept_fds *fds, int table, struct page *page,
                       struct hs_sweep *work) {
    uint64_t cursor = 0;
    uint32_t zero = 0;
    int first = 1, ret;
    long more = 1;

    while (more) {
        work->keys = HS_SWEPT;
        more = hs_bpf_page(table, &cursor, first, &page->keys, &page->values, &work->keys);
        if (more < 0)
            return (int)more;
        first = 0;
        if (!work->keys)
            continue;
        if (bpf_map_update_elem(fds->swept, &zero, &page->keys, BPF_ANY) < 0)
            return -errno;
        ret = hs_bpf_run(fds->program, work, sizeof(*work), NULL, 0, NULL, NULL);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int hs_sweep_all(const struct hs_swept_fds *fds, struct hs_sweep *work) {
    struct page *page = malloc(sizeof(*page));
    int ret = 0, before = getpriority(PRIO_PROCESS, 0); /* of this thread: setpriority(2), Linux */

    if (!page)
        return -ENOMEM;
    if (before < 0)
        setpriority(PRIO_PROCESS, 0, 0);
    for (work->of = 0; !ret && work->of <= HS_SWEEP_DATAGRAMS; work->of++)
        ret = sweep_table(fds, fds->tables[work->of], page, work);
    if (before < 0)
        setpriority(PRIO_PROCESS, 0, before);
    free(page);
    return ret;
}
