# SPDX-License-Identifier: Apache-2.0
"""Network functions that harm their neighbours as far as shared memory and descriptors let them."""

import os
import random
import select
from collections.abc import Iterator
from typing import Any

from cext._native import ffi

from hostsim.nf import Port


def ends(port: Port) -> Iterator[tuple[Any, Any]]:
    """Each neighbour that is a VM, with each of its two channels."""
    near = [port.native.neighbour[place] for place in range(port.native.neighbours)]
    for one in near:
        if one.vm:
            yield one, one.out
            yield one, getattr(one, "in")


def told(port: Port) -> bool:
    """Whether it is to end."""
    ready = select.select([port.control], [], [], 0)[0]
    return bool(ready) and not port.on_control()


def vandal(port: Port) -> None:
    """Writes into what is shared, in the rings' heads and slots most of all."""
    draw = random.Random(1)
    while not told(port):
        for _, end in ends(port):
            memory = ffi.buffer(end.region, end.region_size)
            for _ in range(50):
                at = draw.randrange(128, draw.choice((1024, 8192, end.region_size - 64)))
                memory[at : at + 16] = draw.choice((bytes(16), draw.randbytes(16), b"\xff" * 16))
            at = 128
            memory[at : at + 4] = draw.randrange(1 << 12).to_bytes(4, "little")  # often likely


def bells(port: Port) -> None:
    """Rings without an end, and fills the bell."""
    while not told(port):
        for one, _ in ends(port):
            for _ in range(100):
                try:
                    os.write(one.bell_out, b"x" * 512)
                except BlockingIOError:
                    break


def hang_up(port: Port) -> None:
    """Closes its bells."""
    done = set()
    while not told(port):
        for one, _ in ends(port):
            if one.bell_out not in done:
                done.add(one.bell_out)
                os.dup2(os.open("/dev/null", os.O_WRONLY), one.bell_out)
        select.select([port.control], [], [], 1)


def deaf(port: Port) -> None:
    """Takes nothing."""
    while not told(port):
        select.select([port.control], [], [], 1)
