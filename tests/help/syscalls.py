# SPDX-License-Identifier: Apache-2.0
"""This machine's system calls, by libseccomp: the arguments of programs/user0.py."""

import ctypes


def numbers() -> list[str]:
    """NAME=NUMBER of each."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    native = library.seccomp_arch_native()
    named = {n: library.seccomp_syscall_resolve_num_arch(native, n) for n in range(480)}
    return [f"{name.decode()}={number}" for number, name in named.items() if name]
