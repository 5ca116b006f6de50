// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Sockets of VMs begin, charged with their receive queue, and end, with all they were charged with
 * given back (see vm/sockets.bpf.h).
 *
 * A socket is refused if the security modules may refuse it (security_socket_post_create), and
 * is over in its destructor, when the kernel has freed its rings. A program that is left out
 * because it ran on that processor already (of a task that was preempted in it) leaves a socket
 * charged for ever, or one without the charge of its queue. */
#include "vm/sockets.bpf.h"
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct sock {
    int sk_rcvbuf;
};
struct socket {
    struct sock *sk;
};
#pragma clang attribute pop

SEC("fmod_ret/security_socket_post_create")
int BPF_PROG(begin, struct socket *sock, int family, int type, int protocol, int kern, int ret) {
    struct held *held;
    struct sock *sk = sock->sk;
    __u64 vm;

    if (ret || kern || !hs_uncharged(family, type, protocol) || !sk)
        return ret;
    vm = hs_vm_now();
    if (!vm)
        return 0;
    held = bpf_sk_storage_get(&sockets_held, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!held)
        return -HS_ENOMEM;
    held->vm = vm;
    return hs_charge(held, HS_QUEUE, sk->sk_rcvbuf);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
