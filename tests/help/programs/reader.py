# SPDX-License-Identifier: Apache-2.0
"""Reads every evdev node in /dev/input, with plain read(2); run inside an OS by the tests.

    reader.py FILE [keys]

appends a line to FILE for everything that happens: `open NODE`, `gone NODE`, `ready` after the
first look, and `event NODE TYPE CODE VALUE` (SYN and MSC left out). Nodes that come later are
opened when they appear. With `keys`, events of other types are read and left out. Imports nothing
heavy.
"""

import os
import select
import struct
import sys
from typing import TextIO

EVENT = struct.Struct("llHHi")
FOLDER = "/dev/input"
KINDS = frozenset(range(32)) - {0, 4}


def main(path: str, only: str = "") -> None:
    with open(path, "a", buffering=1) as out:
        watch(out, range(1, 2) if only == "keys" else KINDS)


def watch(out: TextIO, kinds: range | frozenset[int]) -> None:
    files: dict[int, str] = {}
    refused: set[str] = set()
    poller = select.poll()
    first = True
    while True:
        present = {name for name in os.listdir(FOLDER) if name.startswith("event")}
        refused &= present
        for name in sorted(present - set(files.values()) - refused):
            try:
                fd = os.open(f"{FOLDER}/{name}", os.O_RDONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno not in (2, 19):
                    refused.add(name)
                    out.write(f"refused {name} {error.errno}\n")
                continue
            files[fd] = name
            poller.register(fd, select.POLLIN)
            out.write(f"open {name}\n")
        if first:
            out.write("ready\n")
            first = False
        for fd, _ in poller.poll(5):
            try:
                data = os.read(fd, EVENT.size * 64)
            except BlockingIOError:
                continue
            except OSError:
                out.write(f"gone {files.pop(fd)}\n")
                poller.unregister(fd)
                os.close(fd)
                continue
            for _, _, kind, code, value in EVENT.iter_unpack(data):
                if kind in kinds:
                    out.write(f"event {files[fd]} {kind} {code} {value}\n")


main(*sys.argv[1:])
