# SPDX-License-Identifier: Apache-2.0
"""Devices nobody would think of, made through uinput: generated.py SEED COUNT [NAME]

Each has a name, ids, kinds of events, codes, properties and axes drawn from SEED: names that are
no UTF-8 or cannot be printed, axes whose values defy their ranges (set through the node, as any
program may), force feedback of one effect. All have the phys `NAME/NUMBER` (NAME: `generated`),
by which a host file can mean them. Prints the nodes, as JSON in one line; the devices go when
standard input ends.
"""

import fcntl
import json
import os
import random
import struct
import sys
from pathlib import Path
from typing import BinaryIO

SET_EVBIT = 0x40045564
SET_BIT = {1: 0x40045565, 2: 0x40045566, 4: 0x40045568, 5: 0x4004556D, 17: 0x40045569,
           18: 0x4004556A, 21: 0x4004556B}  # fmt: skip
SET_ABS_BIT, SET_PROP, SET_PHYS = 0x40045567, 0x4004556E, 0x4008556C
SETUP, ABS_SETUP, CREATE = 0x405C5503, 0x401C5504, 0x5501
GET_SYSNAME = 0x8040552C
SET_ABS = 0x401845C0
KEY, REL, ABS, MSC, SW, LED, SND, REP, FF = 1, 2, 3, 4, 5, 17, 18, 20, 21
LIMITS = {KEY: 0x2FF, REL: 0x0F, MSC: 0x07, SW: 0x10, LED: 0x0F, SND: 0x07}
RUMBLE, GAIN, AUTOCENTER = 0x50, 0x60, 0x61
SLOT = 0x2F
AXES = (*range(0x29), *range(0x2F, 0x3E))
EXTREMES = (-(2**31), -1000, -1, 0, 1, 7, 1000, 2**31 - 1)
LETTERS = b"Keyboard \xfc \xc3\xbc \n \x01 '\" \xff\xfe %s /.. \\ {}".split(b" ")


def name(draw: random.Random) -> bytes:
    text = b"".join(draw.choice(LETTERS) for _ in range(draw.randint(1, 12)))
    return text[: draw.choice((1, 20, 78, 79))]


def axis(draw: random.Random) -> tuple[int, ...]:
    """value, minimum, maximum, fuzz, flat, resolution: such as uinput takes."""
    low = draw.randint(-1000, 1000)
    high = low + draw.randint(1, 2000)
    return draw.randint(low, high), low, high, draw.randint(0, 9), draw.randint(0, high - low), 0


def make(draw: random.Random, phys: bytes) -> tuple[BinaryIO, str]:
    device = open("/dev/uinput", "r+b", buffering=0)  # noqa: SIM115
    kinds = {kind for kind in (KEY, REL, ABS, MSC, SW, LED, SND, REP, FF) if draw.random() < 0.4}
    kinds |= {draw.choice((KEY, REL))}
    effects = draw.choice((1, 16)) if FF in kinds else 0
    for kind in kinds:
        fcntl.ioctl(device, SET_EVBIT, kind)
        for code in range(LIMITS.get(kind, -1) + 1):
            if draw.random() < draw.choice((0.05, 0.5)):
                fcntl.ioctl(device, SET_BIT[kind], code)
    for code in (RUMBLE, GAIN, AUTOCENTER) if FF in kinds else ():
        if code == RUMBLE or draw.random() < 0.5:
            fcntl.ioctl(device, SET_BIT[FF], code)
    axes = [code for code in AXES if draw.random() < 0.2] if ABS in kinds else []
    for code in axes:
        fcntl.ioctl(device, SET_ABS_BIT, code)
        values = (0, 0, draw.randint(1, 80), 0, 0, 0) if code == SLOT else axis(draw)
        fcntl.ioctl(device, ABS_SETUP, struct.pack("=Hxx6i", code, *values))
    for prop in range(8):
        if draw.random() < 0.2:
            fcntl.ioctl(device, SET_PROP, prop)
    fcntl.ioctl(device, SET_PHYS, phys + b"\0")
    ids = (draw.choice((1, 3, 5, 0x11, 0x19)), *(draw.randint(0, 0xFFFF) for _ in range(3)))
    fcntl.ioctl(device, SETUP, struct.pack("=HHHH80sI", *ids, name(draw), effects))
    fcntl.ioctl(device, CREATE)
    sysname = os.fsdecode(fcntl.ioctl(device, GET_SYSNAME, bytes(64)).rstrip(b"\0"))
    folder = Path("/sys/devices/virtual/input", sysname)
    node = next(f"/dev/input/{path.name}" for path in folder.glob("event*"))
    for code in axes:
        if code != SLOT and draw.random() < 0.3:
            with open(node, "r+b", buffering=0) as file:
                odd = struct.pack("6i", *(draw.choice(EXTREMES) for _ in range(6)))
                fcntl.ioctl(file, SET_ABS + code, odd)
    return device, node


def main(seed: str, count: str, called: str = "generated") -> None:
    draw = random.Random(int(seed))
    made = [make(draw, f"{called}/{number}".encode()) for number in range(int(count))]
    print(json.dumps([node for _, node in made]), flush=True)
    sys.stdin.read()
    for device, _ in made:
        device.close()


main(*sys.argv[1:])
