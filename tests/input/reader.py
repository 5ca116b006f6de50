"""Reads every evdev node in /dev/input, with plain read(2); run inside an OS by the tests.

    reader.py FILE

appends a line to FILE for everything that happens: `open NODE`, `gone NODE`, `ready` after the
first look, and `event NODE TYPE CODE VALUE` (SYN and MSC left out). Nodes that come later are
opened when they appear. Imports nothing heavy.
"""

import os
import select
import struct
import sys
from typing import TextIO

EVENT = struct.Struct("llHHi")
FOLDER = "/dev/input"


def main(path: str) -> None:
    with open(path, "a", buffering=1) as out:
        watch(out)


def watch(out: TextIO) -> None:
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
                if kind not in (0, 4):
                    out.write(f"event {files[fd]} {kind} {code} {value}\n")


main(sys.argv[1])
