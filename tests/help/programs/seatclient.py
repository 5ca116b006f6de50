# SPDX-License-Identifier: Apache-2.0
"""A client of the seat at /run/seatd.sock, as small as can be: it speaks the protocol itself.

    seatclient.py [COLOUR]

With a colour (as 00aa00) it is a compositor: it opens card0 and fills the screen whenever it is
enabled. Without, it waits for orders. It says on stdout what it hears and does, a line each:

    opened | closed | enabled | disabled | device N FD | error N | pong | painted | gone

and obeys lines on stdin:

    open PATH | close N | seat | leave | switch N | ping | raw HEX
    deaf        acknowledge nothing from now on, and do not end with the connection; says `deaf`
    hear        do it again, and what was not acknowledged; says `hears`
    paint       try to fill the screen: `painted`, or `errno N`
    master      try to be the card's master: `master`, or `errno N`
    size W H    fill the screen in this mode from now on
    own PATH    try to open the card by itself, and be master: `master`, or `errno N`
    lend        lease all of the card to itself: `lent`, or `errno N`
    lent        try to fill the screen by that lease: `painted`, or `errno N`
    race        try to be master, and to fill the screen, all the time; says `races`
    calm        race no more; says `raced N`, the number of tries
    listen PATH take a card that another client passes on: `card`
    pass PATH   pass the card on to the client that listens there
    peek        read a pixel of each buffer that is shown: `pixel ffffff ...`, or `errno N`
    flood N     N times raw PINGs, and read no answer
    files       how many descriptors it has
"""

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import sys
import threading

OPEN_SEAT, CLOSE_SEAT, OPEN_DEVICE, CLOSE_DEVICE, DISABLE_SEAT, SWITCH, PING = range(1, 8)
NAMES = {
    0x8001: "opened",
    0x8002: "closed",
    0x8004: "closed",
    0x8005: "disabled",
    0x8006: "enabled",
    0x8007: "pong",
}


def say(*words: object) -> None:
    print(*words, flush=True)


class Client:
    def __init__(self, colour: str | None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect("/run/seatd.sock")
        self.colour = colour
        self.deaf = False
        self.owed = 0
        self.card = -1
        self.lease = -1
        self.size: tuple[int, ...] = ()
        self.pens: dict[tuple[int, tuple[int, ...]], object] = {}
        self.racing = threading.Event()
        self.tries = 0
        self.racer: threading.Thread | None = None
        self.data = b""
        self.fds: list[int] = []
        self.lines = b""

    def ask(self, kind: int, body: bytes = b"") -> None:
        self.sock.sendall(struct.pack("=HH", kind, len(body)) + body)

    def open(self, path: str) -> None:
        raw = path.encode() + b"\0"
        self.ask(OPEN_DEVICE, struct.pack("=H", len(raw)) + raw)

    def acknowledge(self) -> None:
        if not self.deaf:
            for _ in range(self.owed):
                self.ask(DISABLE_SEAT)
            self.owed = 0

    def painter(self, fd: int = -1) -> object:
        from netns.card import Pen

        fd, size = self.card if fd < 0 else fd, self.size

        class Painter(Pen):
            def _screen(self, connector: int) -> tuple[bytes, list[int]]:
                modes, encoders = self._modes(connector)
                fit = [m for m in modes if size in ((), struct.unpack_from("=4xH8xH", m))]
                return (fit or [b""])[0], encoders

        return self.pens.setdefault((fd, size), Painter(fd))

    def see_planes(self) -> None:
        from netns import card as drm

        try:
            drm.see_planes(self.card)
        except OSError as error:  # a test's card that is none
            if error.errno != errno.ENOTTY:
                raise

    def paint(self, fd: int = -1) -> None:
        try:
            self.painter(fd).light(int(self.colour or "ffffff", 16))  # type: ignore[attr-defined]
            say("painted")
        except OSError as error:
            say("errno", error.errno)

    def peek(self) -> None:
        from netns import card as drm

        seen = []
        try:
            for number in self.painter().shown():  # type: ignore[attr-defined]
                if number:
                    seen.append(drm.pixel(self.card, number)[2::-1].hex())
            say("pixel", *seen)
        except OSError as error:
            say("errno", error.errno)

    def master(self, fd: int) -> None:
        from netns import card as drm

        try:
            drm.master(fd)
            say("master")
        except OSError as error:
            say("errno", error.errno)

    def own(self, path: str) -> None:
        try:
            self.master(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            say("errno", error.errno)

    def lend(self) -> None:
        """DRM_IOCTL_MODE_CREATE_LEASE of every CRTC, connector and plane."""
        numbers = [n for some in self.painter()._objects().values() for n in some]  # type: ignore[attr-defined]
        objects = array.array("I", numbers)
        asked = struct.pack("=Q4I", objects.buffer_info()[0], len(numbers), os.O_CLOEXEC, 0, 0)
        try:
            answer = fcntl.ioctl(self.card, 0xC01864C6, asked)
            self.lease = struct.unpack("=Q4I", answer)[4]
            say("lent")
        except OSError as error:
            say("errno", error.errno)

    def race(self) -> None:
        """All that could make it master, or seen, as fast as it can."""
        from netns import card as drm

        painter = self.painter()
        while self.racing.is_set():
            self.tries += 1
            with contextlib.suppress(OSError):
                drm.master(self.card)
            with contextlib.suppress(OSError):
                painter.light(int(self.colour or "ffffff", 16))  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                os.close(os.open("/dev/dri/card0", os.O_RDWR | os.O_CLOEXEC))

    def listen(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(1)
            say("listens")
            with listener.accept()[0] as other:
                self.card = socket.recv_fds(other, 1, 1)[1][0]
        say("card")

    def hand(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.connect(path)
            socket.send_fds(other, [b"x"], [self.card])
        say("passed")

    def hear(self) -> bool:
        data, rights, _, _ = self.sock.recvmsg(4096, 4096)
        for _, _, raw in rights:
            self.fds += array.array("i", raw).tolist()
        if not data:
            say("gone")
            return False
        self.data += data
        while len(self.data) >= 4:
            kind, size = struct.unpack_from("=HH", self.data)
            if len(self.data) < 4 + size:
                break
            self.obey(kind, self.data[4 : 4 + size])
            self.data = self.data[4 + size :]
        return True

    def obey(self, kind: int, body: bytes) -> None:
        if kind == 0xFFFF:
            say("error", *struct.unpack("=i", body))
        elif kind == 0x8003:
            fd = self.fds.pop(0)
            say("device", *struct.unpack("=i", body), fd)
            if self.card < 0:
                self.card = fd
                self.see_planes()
            if self.colour:
                self.paint()
        elif kind in NAMES:
            say(NAMES[kind])
            if kind == 0x8005:
                self.owed += 1
                self.acknowledge()
            elif kind == 0x8006 and self.colour:
                if self.card < 0:
                    self.open("/dev/dri/card0")
                else:
                    self.paint()
        else:
            say("message", kind)

    def order(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "open":
            self.open(rest)
        elif word == "close":
            self.ask(CLOSE_DEVICE, struct.pack("=i", int(rest)))
        elif word == "seat":
            self.ask(OPEN_SEAT)
        elif word == "leave":
            self.ask(CLOSE_SEAT)
        elif word == "switch":
            self.ask(SWITCH, struct.pack("=i", int(rest)))
        elif word == "ping":
            self.ask(PING)
        elif word == "raw":
            self.sock.sendall(bytes.fromhex(rest))
        elif word == "deaf":
            self.deaf = True
            say("deaf")
        elif word == "hear":
            self.deaf = False
            self.acknowledge()
            say("hears")
        elif word == "paint":
            self.paint()
        elif word == "peek":
            self.peek()
        elif word == "master":
            self.master(self.card)
        elif word == "size":
            self.size = tuple(map(int, rest.split()))
        elif word == "own":
            self.own(rest)
        elif word == "lend":
            self.lend()
        elif word == "lent":
            self.paint(self.lease)
        elif word == "race":
            self.racing.set()
            self.racer = threading.Thread(target=self.race)
            self.racer.start()
            say("races")
        elif word == "calm":
            assert self.racer is not None
            self.racing.clear()
            self.racer.join()
            say("raced", self.tries)
        elif word == "listen":
            self.listen(rest)
        elif word == "pass":
            self.hand(rest)
        elif word == "flood":
            ping = struct.pack("=HH", PING, 0)
            try:
                for _ in range(int(rest)):
                    self.sock.sendall(ping)
            except OSError:
                say("gone")
        elif word == "files":
            say("files", len(os.listdir("/proc/self/fd")))

    def run(self) -> None:
        if self.colour:
            self.ask(OPEN_SEAT)
        say("ready")
        while True:
            there = self.sock.fileno()
            ready, _, _ = select.select([0] if there < 0 else [there, 0], [], [])
            if there in ready and not self.hear():
                if not self.deaf:
                    return
                self.sock.close()
            if 0 in ready:
                data = os.read(0, 4096)
                if not data:
                    return
                *lines, self.lines = (self.lines + data).split(b"\n")
                for line in lines:
                    self.order(line.decode())


Client(sys.argv[1] if len(sys.argv) > 1 else None).run()
