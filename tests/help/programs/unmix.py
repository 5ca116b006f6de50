# SPDX-License-Identifier: Apache-2.0
"""unmix.py NODE: sets all of a sound card's mixer to what is out of range, and removes what can be
(linux sound/asound.h). Says how many elements it has removed."""

import contextlib
import fcntl
import os
import struct
import sys

WRITE, REMOVE = 0xC4C85513, 0xC0405519
SIZE = 0x4C8
MOST = 256

fd = os.open(sys.argv[1], os.O_RDWR)
removed = 0
for number in range(1, MOST):
    identity = struct.pack("=I60x", number)
    value = identity + bytes(8) + struct.pack("=q", -(1 << 40)) * 128
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, WRITE, bytearray(value.ljust(SIZE, b"\0")))
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, REMOVE, bytearray(identity))
        removed += 1
print(removed)
