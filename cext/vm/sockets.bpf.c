// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A VM's socket options that take memory of the kernel's: refused with ENOMEM beyond the VM's bound
 * (BPF_PROG_TYPE_CGROUP_SOCKOPT, attached to the VM's v2 directory; see vm/sockets.bpf.h).
 *
 * The kernel goes on with the copy of the option that was judged here, unless it is longer than a
 * page: that one is refused, if it is one of these. System calls of 32 bits do not come by here:
 * vm/filter.c closes these options to them. */
#include "vm/sockets.bpf.h"

#define EINVAL 22
#define SOL_SOCKET 1
#define SOL_PACKET 263
#define SOL_XDP 283
#define SO_RCVBUF 8
#define PACKET_RX_RING 5
#define PACKET_TX_RING 13
#define PACKET_FANOUT 18
#define XDP_RX_RING 2
#define XDP_TX_RING 3
#define XDP_UMEM_REG 4
#define XDP_UMEM_FILL_RING 5
#define XDP_UMEM_COMPLETION_RING 6

#define PAGE 4096
#define QUEUE_UNASKED 212992 /* net.core.rmem_default, as the kernel has it */
/* What a socket of AF_XDP may hold besides its own rings: one umem and one pool, its own or another
 * socket's that has ended. Of a pool: a `struct xdp_buff_xsk` and a pointer for each chunk, and its
 * two rings; of a umem, a pointer for each page. */
#define CHUNK 192
#define CHUNK_LEAST 2048
#define UMEM_MAX ((1u << 14) * CHUNK_LEAST * 2)
#define CHUNKS_MAX (1u << 14)
#define POOL_RING_MAX (1u << 15)
#define POOL (CHUNKS_MAX * (CHUNK + 16) + 2 * 8 * POOL_RING_MAX)

/* struct tpacket_req; tpacket_req3 begins with it. */
struct request {
    __u32 block_size, blocks, frame_size, frames;
};
/* struct fanout_args. */
struct members {
    __u32 group, most;
};
struct region {
    __u64 address, size;
    __u32 chunk_size, headroom;
};

static __always_inline int refuse(int error) {
    bpf_set_retval(-error);
    return 0;
}

/* A block is of whole pages, their number a power of two. */
static __always_inline __u64 ring_bytes(const struct request *request) {
    __u64 block = PAGE;

    if (request->block_size > 1u << 30)
        return ~0ULL;
    for (int i = 0; i < 18 && block < request->block_size; i++)
        block <<= 1;
    return (block + 16) * request->blocks;
}

static __always_inline int packet_ring(struct bpf_sockopt *ctx, struct held *held, int what) {
    struct request *request = ctx->optval;

    if ((void *)(request + 1) > ctx->optval_end)
        return 0; /* too short for the kernel too */
    return hs_charge(held, what, ring_bytes(request));
}

/* A ring's size is that of a page at least, with its head. */
static __always_inline int xdp_ring(struct bpf_sockopt *ctx, struct held *held, int what, int entry,
                                    __u32 most) {
    __u32 *entries = ctx->optval;
    int ret;

    if ((void *)(entries + 1) > ctx->optval_end)
        return 0;
    if (*entries > most)
        return -HS_ENOMEM;
    ret = hs_charge(held, HS_XDP_POOL, POOL);
    return ret ? ret : hs_charge(held, what, (__u64)*entries * entry + PAGE);
}

static __always_inline int umem(struct bpf_sockopt *ctx, struct held *held) {
    struct region *region = ctx->optval;

    if ((void *)(region + 1) > ctx->optval_end)
        return -HS_ENOMEM; /* an older form of it, which has no headroom */
    if (region->chunk_size < CHUNK_LEAST || region->size > UMEM_MAX ||
        region->size / region->chunk_size > CHUNKS_MAX)
        return -HS_ENOMEM;
    return hs_charge(held, HS_XDP_POOL, POOL);
}

/* The kernel gives a shorter queue than was asked for without a word (socket(7)); so does this:
 * what the socket is charged with, or what one has that never asked. */
static __always_inline int queue(struct bpf_sockopt *ctx, struct held *held) {
    struct budget *budget = bpf_map_lookup_elem(&budgets, &held->vm);
    int *size = ctx->optval;
    __u64 most, has = held->bytes[HS_QUEUE];

    if (!budget || (void *)(size + 1) > ctx->optval_end)
        return 0;
    most = *size < 0 ? budget->queue : 2ULL * (__u32)*size;
    if (hs_charge(held, HS_QUEUE, most < budget->queue ? most : budget->queue)) {
        has = (has > QUEUE_UNASKED ? has : QUEUE_UNASKED) / 2;
        if (*size < 0 || (__u64)*size > has)
            *size = (int)has;
    }
    return 0;
}

/* The members of a group have an array, which the first one makes (net/packet/af_packet.c). */
static __always_inline int fanout(struct bpf_sockopt *ctx, struct held *held) {
    struct members *members = ctx->optval;
    __u64 most = 0;

    if ((void *)(members + 1) <= ctx->optval_end)
        most = members->most;
    return hs_charge(held, HS_FANOUT, 8 * (most ? most : 256) + PAGE);
}

SEC("cgroup/setsockopt")
int option(struct bpf_sockopt *ctx) {
    int kind = ctx->level == SOL_PACKET && ctx->optname == PACKET_RX_RING    ? HS_PACKET_RX
               : ctx->level == SOL_PACKET && ctx->optname == PACKET_TX_RING  ? HS_PACKET_TX
               : ctx->level == SOL_XDP && ctx->optname == XDP_RX_RING        ? HS_XDP_RX
               : ctx->level == SOL_XDP && ctx->optname == XDP_TX_RING        ? HS_XDP_TX
               : ctx->level == SOL_XDP && ctx->optname == XDP_UMEM_REG       ? HS_XDP_POOL
               : ctx->level == SOL_XDP && ctx->optname == XDP_UMEM_FILL_RING ? HS_XDP_FILL
               : ctx->level == SOL_XDP && ctx->optname == XDP_UMEM_COMPLETION_RING
                   ? HS_XDP_COMPLETION
               : ctx->level == SOL_PACKET && ctx->optname == PACKET_FANOUT ? HS_FANOUT
               : ctx->level == SOL_SOCKET && ctx->optname == SO_RCVBUF     ? HS_QUEUE
                                                                           : HS_HELD_FOR;
    struct held *held;
    int ret = 0;

    if (kind == HS_HELD_FOR) {
        if (ctx->optlen > PAGE)
            ctx->optlen = 0; /* the kernel then goes on with what it was given */
        return 1;
    }
    if (ctx->optlen > PAGE)
        return refuse(EINVAL);
    if (!ctx->sk)
        return refuse(HS_ENOMEM);
    if (kind == HS_QUEUE && !hs_uncharged(ctx->sk->family, ctx->sk->type, ctx->sk->protocol))
        return 1;
    held = bpf_sk_storage_get(&sockets_held, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!held)
        return refuse(HS_ENOMEM);
    if (held->vm == 0)
        held->vm = hs_vm_now();
    switch (kind) {
    case HS_QUEUE:
        ret = queue(ctx, held);
        break;
    case HS_PACKET_RX:
    case HS_PACKET_TX:
        ret = packet_ring(ctx, held, kind);
        break;
    case HS_FANOUT:
        ret = fanout(ctx, held);
        break;
    case HS_XDP_RX:
        ret = xdp_ring(ctx, held, HS_XDP_RX, 16, ~0u);
        break;
    case HS_XDP_TX: /* and as many descriptors on their way */
        ret = xdp_ring(ctx, held, HS_XDP_TX, 32, ~0u);
        break;
    case HS_XDP_FILL:
        ret = xdp_ring(ctx, held, HS_XDP_FILL, 8, POOL_RING_MAX);
        break;
    case HS_XDP_COMPLETION:
        ret = xdp_ring(ctx, held, HS_XDP_COMPLETION, 8, POOL_RING_MAX);
        break;
    case HS_XDP_POOL:
        ret = umem(ctx, held);
        break;
    }
    return ret ? refuse(-ret) : 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
