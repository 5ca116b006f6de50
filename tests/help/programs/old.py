# SPDX-License-Identifier: Apache-2.0
"""An old program, which knows no evdev; run inside an OS by the tests.

    old.py FILE NODE

waits for /dev/input/NODE, opens it, and appends a line to FILE for everything that it reads: of a
joystick (`js0`) `event TYPE NUMBER VALUE` (linux/joystick.h, how it is at first left out), of a
mouse (`mouse0`) `packet BUTTONS`. `ready` when it is open, `gone` when it can be read no more; then
it waits anew. Imports nothing heavy.
"""

import os
import select
import struct
import sys
from typing import TextIO

EVENT = struct.Struct("IhBB")
INIT = 0x80
PACKET = 3


def main(path: str, name: str) -> None:
    pause = select.poll()
    with open(path, "a", buffering=1) as out:
        while True:
            try:
                fd = os.open(f"/dev/input/{name}", os.O_RDONLY)
            except OSError:
                pause.poll(50)
                continue
            pad = name.startswith("js")
            if pad:  # until this is read, joydev keeps no event for us
                os.read(fd, EVENT.size * 256)
            out.write("ready\n")
            read(fd, pad, out)
            os.close(fd)
            out.write("gone\n")


def read(fd: int, pad: bool, out: TextIO) -> None:
    size = EVENT.size if pad else PACKET
    while True:
        try:
            data = os.read(fd, size * 64)
        except OSError:
            return
        for at in range(0, len(data) - len(data) % size, size):
            if not pad:
                out.write(f"packet {data[at] & 7}\n")
                continue
            _, value, kind, number = EVENT.unpack_from(data, at)
            if not kind & INIT:
                out.write(f"event {kind} {number} {value}\n")


main(*sys.argv[1:])
