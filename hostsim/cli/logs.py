# SPDX-License-Identifier: Apache-2.0
"""`hostsim logs`: what a VM's program and hooks have written, and go on writing."""

import argparse
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hostsim import protocol
from hostsim.cli import client
from hostsim.cli.grammar import Commands, count_of, vm_argument
from hostsim.cli.written import last_lines
from hostsim.logfiles import newest

LINES = 100
"""Of a log that are shown first."""
LOOK = 0.2
"""Seconds between two looks at a log that is followed."""
CHUNK = 64 << 10


def add(commands: Commands) -> None:
    """Add this command to the command line."""
    sub = commands.add("logs", _logs, "what a VM's program and hooks have written")
    vm_argument(sub)
    sub.add_argument("-f", "--follow", action="store_true", help="go on until ^C or `down`")
    sub.add_argument(
        "-n", "--lines", metavar="N", type=count_of, default=LINES, help=f"default {LINES}"
    )


def _logs(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    client.ask(host, "target", vm=arguments.vm)  # one that there is
    folder = protocol.folder(host)
    _write(last_lines(folder, arguments.vm, arguments.lines))
    if arguments.follow:
        for data in _follow(newest(folder, arguments.vm)):
            _write(data)
    return 0


def _follow(path: Path) -> Iterator[bytes]:
    """What is appended from now on, over renames, until the file is gone."""
    pause = threading.Event()
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        while True:
            yield from iter(lambda: file.read(CHUNK), b"")
            now = _renewed(path, file)
            if now is None:
                return
            if now:
                yield from iter(lambda: file.read(CHUNK), b"")  # what came just before
                break
            pause.wait(LOOK)
    with path.open("rb") as file:
        yield file.read()
    yield from _follow(path)


def _renewed(path: Path, file: BinaryIO) -> bool | None:
    """Whether another file has its name by now; None: none has."""
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return None


def printable(data: bytes) -> bytes:
    """Without what a terminal obeys: a VM wrote it. Pure."""
    text = data.decode(errors="backslashreplace")
    return "".join(c if c in "\n\t" or c.isprintable() else ascii(c)[1:-1] for c in text).encode()


def _write(data: bytes) -> None:
    out = sys.stdout.buffer
    out.write(printable(data) if out.isatty() else data)
    out.flush()
