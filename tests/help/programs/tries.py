# SPDX-License-Identifier: Apache-2.0
"""What a program may try, or use up.

tries.py paths WORD...       opens PATH, or makes the character device PATH=NUMBER, for each;
                             says `done` or the error's class, a line each
tries.py allocate BYTES       says how many bytes it has
tries.py spin SECONDS         of processor time
tries.py narrow               unshare(CLONE_NEWUSER) by the 32-bit system call table of x86; exit
                             status 0: there is a new user namespace
tries.py hand-over            waits for a byte on standard input, a socket, and sends one more
                             socket there
"""

import ctypes
import mmap
import os
import socket
import stat
import sys
import time
from collections.abc import Callable

NARROW = "53 b8 36010000 bb 00000010 cd80 5b c3"
"""push ebx; mov eax, 310; mov ebx, 1 << 28; int 0x80; pop ebx; ret."""


def paths(*words: str) -> None:
    for word in words:
        path, _, number = word.partition("=")
        try:
            if number:
                os.mknod(path, stat.S_IFCHR | 0o600, int(number))
            else:
                os.open(path, os.O_RDONLY)
            print("done")
        except OSError as error:
            print(type(error).__name__)


def allocate(size: str) -> None:
    print(len(bytearray(int(size))))


def spin(seconds: str) -> None:
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        pass


def narrow() -> None:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex(NARROW.replace(" ", "")))
    call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    sys.exit(call() != 0)


def hand_over() -> None:
    here = socket.socket(fileno=0)
    here.recv(1)
    with socket.socket() as one:
        socket.send_fds(here, [b"x"], [one.fileno()])


COMMANDS: dict[str, Callable[..., None]] = {
    "paths": paths, "allocate": allocate, "spin": spin, "narrow": narrow, "hand-over": hand_over,
}  # fmt: skip
COMMANDS[sys.argv[1]](*sys.argv[2:])
