# SPDX-License-Identifier: Apache-2.0
"""A compositor as small as can be, for `hostsim bench flip`: the same one in an OS of a host and as
a client of a seatd. It speaks seatd's protocol, and fills the screen with its colour in each turn.

    python -m hostsim.bench.painter COLOUR          as 00aa00

It says `ready 0` once it has asked for the seat, and `painted N` after the Nth picture. Its stdin:

    switch N    ask for session N; says `asked NS`, in ns of CLOCK_MONOTONIC

It ends with its stdin.
"""

import errno
import os
import select
import socket
import struct
import sys
import time
from array import array

from hostsim.kmc.seatwire import Ask, Say
from netns import card as drm

SOCKET = "/run/seatd.sock"
CARD = "/dev/dri/card0"


class Painter:
    """One client. `run` returns when nobody speaks to it any more."""

    def __init__(self, colour: int) -> None:
        self._colour = colour
        self._seat = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._seat.connect(SOCKET)
        self._data = b""
        self._card = -1
        self._pen: drm.Pen | None = None
        self._painted = 0

    def run(self) -> None:
        """See above."""
        self._ask(Ask.OPEN_SEAT)
        _say("ready", 0)
        while True:
            seat = self._seat.fileno()
            ready, _, _ = select.select([seat, 0], [], [])
            if seat in ready and not self._hear():
                return
            if 0 in ready:
                line = os.read(0, 100)
                if not line:
                    return
                _say("asked", time.monotonic_ns())
                self._ask(Ask.SWITCH_SESSION, struct.pack("=i", int(line.split()[1])))

    def _ask(self, what: Ask, body: bytes = b"") -> None:
        self._seat.sendall(struct.pack("=HH", what, len(body)) + body)

    def _hear(self) -> bool:
        data, rights, _, _ = self._seat.recvmsg(4096, socket.CMSG_SPACE(array("i").itemsize))
        for *_, raw in rights:
            self._card = array("i", raw)[0]
        self._data += data
        while len(self._data) >= 4:
            kind, size = struct.unpack_from("=HH", self._data)
            if len(self._data) < 4 + size:
                break
            self._data = self._data[4 + size :]
            self._obey(kind)
        return bool(data)

    def _obey(self, kind: int) -> None:
        if kind == Say.DISABLE_SEAT:
            self._ask(Ask.DISABLE_SEAT)
        elif kind == Say.ENABLE_SEAT and self._card < 0:
            path = CARD.encode() + b"\0"
            self._ask(Ask.OPEN_DEVICE, struct.pack("=H", len(path)) + path)
        elif kind in (Say.ENABLE_SEAT, Say.DEVICE_OPENED):
            self._paint()

    def _paint(self) -> None:
        if self._pen is None:
            self._pen = drm.Pen(self._card)
        try:
            self._pen.light(self._colour)
        except OSError as error:
            if error.errno != errno.EACCES:  # else its turn is over already
                raise
            return
        self._painted += 1
        _say("painted", self._painted)


def _say(word: str, number: int) -> None:
    print(word, number, flush=True)


if __name__ == "__main__":
    Painter(int(sys.argv[1], 16)).run()
