"""A client of the seat at /run/seatd.sock, as small as can be: it speaks the protocol itself.

    seatclient.py [COLOUR]

With a colour (as 00aa00) it is a compositor: it opens card0 and fills the screen whenever it is
enabled. Without, it waits for orders. It says on stdout what it hears and does, a line each:

    opened | closed | enabled | disabled | device N FD | error N | pong | painted | gone

and obeys lines on stdin:

    open PATH | close N | seat | leave | switch N | ping | raw HEX
    deaf        acknowledge nothing from now on; says `deaf`
    hear        do it again, and what was not acknowledged; says `hears`
    paint       try to fill the screen: `painted`, or `errno N`
    master      try to be the card's master: `master`, or `errno N`
    peek        read a pixel of each buffer that is shown: `pixel ffffff ...`, or `errno N`
    flood N     N times raw PINGs, and read no answer
    files       how many descriptors it has
"""

import array
import errno
import mmap
import os
import select
import socket
import struct
import sys

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

    def painter(self) -> object:
        from netns.card import Card

        card = Card.__new__(Card)
        card._fd = self.card
        card._names = {}
        return card

    def see_planes(self) -> None:
        from netns import card as drm

        try:
            drm.see_planes(self.card)
        except OSError as error:  # a test's card that is none
            if error.errno != errno.ENOTTY:
                raise

    def paint(self) -> None:
        try:
            self.painter().light(int(self.colour or "ffffff", 16))  # type: ignore[attr-defined]
            say("painted")
        except OSError as error:
            say("errno", error.errno)

    def peek(self) -> None:
        from netns import card as drm

        seen = []
        try:
            for number in self.painter().shown():  # type: ignore[attr-defined]
                if number:
                    found = drm.framebuffer(self.card, number)
                    handle, pitch, height = found
                    offset = drm.mapped(self.card, handle)
                    with mmap.mmap(self.card, pitch * height, offset=offset) as pixels:
                        seen.append(pixels[:4][2::-1].hex())
            say("pixel", *seen)
        except OSError as error:
            say("errno", error.errno)

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
            from netns import card as drm

            try:
                drm.master(self.card)
                say("master")
            except OSError as error:
                say("errno", error.errno)
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
            ready, _, _ = select.select([there, 0], [], [])
            if there in ready and not self.hear():
                return
            if 0 in ready:
                data = os.read(0, 4096)
                if not data:
                    return
                *lines, self.lines = (self.lines + data).split(b"\n")
                for line in lines:
                    self.order(line.decode())


Client(sys.argv[1] if len(sys.argv) > 1 else None).run()
