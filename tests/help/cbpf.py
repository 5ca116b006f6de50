# SPDX-License-Identifier: Apache-2.0
"""Runs classic BPF (linux/filter.h, Documentation/networking/filter.rst), as the kernel does for
socket filters and seccomp: what a program decides is seen without a socket or a process for it."""

import operator
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

MASK = 0xFFFFFFFF
STEPS_MAX = 4096
"""Longer than any program; jumps go forward only."""

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
ALU_OPS: dict[int, Callable[[int, int], int]] = {
    0x00: operator.add, 0x10: operator.sub, 0x20: operator.mul, 0x30: operator.floordiv,
    0x40: operator.or_, 0x50: operator.and_, 0x60: operator.lshift, 0x70: operator.rshift,
    0x90: operator.mod, 0xA0: operator.xor,
}  # fmt: skip
JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x10: operator.eq, 0x20: operator.gt, 0x30: operator.ge, 0x40: lambda a, k: bool(a & k),
}  # fmt: skip


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


def program(raw: bytes) -> list[Instruction]:
    """From an array of struct sock_filter."""
    return [Instruction(*fields) for fields in struct.iter_unpack("=HBBI", raw)]


def run(code: Sequence[Instruction], data: bytes, order: str = ">") -> int:
    """What the program returns for the data; 0 if it reads beyond them, as a socket filter does.

    order: of the bytes in memory; network order for a packet, the machine's for seccomp
    """
    a = x = at = 0
    memory = [0] * 16
    sizes = {0x00: "I", 0x08: "H", 0x10: "B"}
    for _ in range(STEPS_MAX):
        one = code[at]
        at += 1
        kind, mode = one.code & 7, one.code & 0xE0
        if kind in (LD, LDX):
            if mode in (0x20, 0x40):  # ABS, IND
                where = one.k + (x if mode == 0x40 else 0)
                form = order + sizes[one.code & 0x18]
                if where + struct.calcsize(form) > len(data):
                    return 0
                (value,) = struct.unpack_from(form, data, where)
            else:
                value = {0x00: one.k, 0x60: memory[one.k & 15], 0x80: len(data)}[mode]
            a, x = (value, x) if kind == LD else (a, value)
        elif kind in (ST, STX):
            memory[one.k] = a if kind == ST else x
        elif kind == ALU:
            other = x if one.code & 8 else one.k
            a = (-a if one.code & 0xF0 == 0x80 else ALU_OPS[one.code & 0xF0](a, other)) & MASK
        elif kind == JMP:
            if one.code & 0xF0 == 0:
                at += one.k
            else:
                taken = JUMPS[one.code & 0xF0](a, x if one.code & 8 else one.k)
                at += one.jt if taken else one.jf
        elif kind == RET:
            return a if one.code & 0x18 == 0x10 else one.k
        else:
            a, x = (a, a) if one.code & 0xF8 == 0 else (x, x)
    raise AssertionError("the program does not end")
