# SPDX-License-Identifier: Apache-2.0
"""A device that a program of an OS makes itself: own.py NAME [pad]

asks for every key, or is a pad of two axes and BTN_SOUTH, prints `EVENT` of its node (`event5`) as
sysfs has it, and taps a key for each number on standard input, answering `ok`. The device goes when
standard input ends. It needs no node in /dev/input, and imports nothing heavy.
"""

import fcntl
import os
import struct
import sys

SET_EVBIT, SET_KEYBIT, SET_ABSBIT = 0x40045564, 0x40045565, 0x40045567
SETUP, ABS_SETUP, CREATE, GET_SYSNAME = 0x405C5503, 0x401C5504, 0x5501, 0x8040552C
EVENT = struct.Struct("llHHi")
KEYS = range(1, 249)
BTN_SOUTH = 0x130
AXES = (0, 1)


def main(name: str, kind: str = "keyboard") -> None:
    device = os.open("/dev/uinput", os.O_RDWR)
    fcntl.ioctl(device, SET_EVBIT, 1)
    for code in KEYS if kind == "keyboard" else (BTN_SOUTH,):
        fcntl.ioctl(device, SET_KEYBIT, code)
    for code in AXES if kind == "pad" else ():
        fcntl.ioctl(device, SET_EVBIT, 3)
        fcntl.ioctl(device, SET_ABSBIT, code)
        fcntl.ioctl(device, ABS_SETUP, struct.pack("=Hxx6i", code, 0, -128, 127, 0, 0, 0))
    fcntl.ioctl(device, SETUP, struct.pack("=4H80sI", 3, 0x1209, 1, 1, name.encode(), 0))
    fcntl.ioctl(device, CREATE)
    sysname = bytearray(64)
    fcntl.ioctl(device, GET_SYSNAME, sysname)
    folder = "/sys/devices/virtual/input/" + sysname.split(b"\0")[0].decode()
    print(next(one for one in os.listdir(folder) if one.startswith("event")), flush=True)
    for line in sys.stdin:
        for value in (1, 0):
            frame = EVENT.pack(0, 0, 1, int(line), value) + EVENT.pack(0, 0, 0, 0, 0)
            os.write(device, frame)
        print("ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
