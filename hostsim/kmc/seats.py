# SPDX-License-Identifier: Apache-2.0
"""The seat server: one listening socket for each OS, /run/seatd.sock, that libseat's clients use.

Which OS asks is known by the listener. What it sends is judged by `seat`; here are the sockets and
descriptors. An OS has few connections, and few new ones a second (`door`); a client is read a
little at a time and never waited for: one that floods or does not read is cut off, and loses its
seat.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from hostsim.errors import reason
from hostsim.kmc import seatwire
from hostsim.kmc.door import Bucket, Door
from hostsim.kmc.seat import Action, Came, Cut, Left, Open, Seat, Send, Shut, Switch
from hostsim.kmc.seatwire import DEVICES_MAX
from hostsim.vm import Vm
from netns import priority, rights, tree

log = logging.getLogger("hostsim.kmc")

NAME = "seatd.sock"
"""In the OS's /run: where libseat looks (SEATD_DEFAULTPATH)."""

CLIENTS = 8
"""Most connections of one OS; further ones are closed at once."""

CHUNK = 512
"""Bytes read from a client in one turn of the loop."""

RATE, BURST = 400.0, 400.0
"""Messages a second from one client, and how many at once; then it is cut off. The pieces of one
that is not whole count too. To open and close all that a client may have takes 256."""

CLOSERS = 6
"""Threads that close input devices: at the last close of one the kernel waits for all CPUs. What an
OS has there to close is bounded, as what it has open is."""

_EVIOCREVOKE = 0x40044591

closers = ThreadPoolExecutor(CLOSERS, "seat-closer", initializer=priority.stay_behind)
"""Not the loop's own executor: others wait for that one. VMs make it as long as they like."""


class Handler(Protocol):
    """What has the devices. Called in the loop."""

    def open_card(self, name: str, card: str) -> int:
        """A descriptor of the card for the foreground OS `name`, the caller's then. Raises
        OSError."""
        ...

    def card_shut(self, name: str, card: str) -> None:
        """The OS has one fewer."""
        ...

    def open_event(self, name: str, event: str) -> int:
        """A descriptor of an input device that the OS has. Raises OSError."""
        ...

    def left(self, name: str) -> None:
        """Nobody in the OS has the seat any more."""
        ...

    def settled(self, name: str) -> None:
        """The OS has let go (`SeatPort.leaving`)."""
        ...

    def switch(self, name: str, session: int) -> None:
        """A client asks for the OS of this number, 1 and up."""
        ...

    def offence(self, name: str, why: str) -> None:
        """A client broke the rules, and is cut off."""
        ...


class SeatPort:
    """The seat server of one OS. `close` ends all its clients."""

    def __init__(self, name: str, vm: Vm, handler: Handler, answers: bool = False) -> None:
        self.name = name
        self._vm = vm
        self._handler = handler
        self._answers = answers
        self._seat = Seat(answers)
        self._door: Door | None = None
        self._clients: dict[int, tuple[socket.socket, Bucket]] = {}
        self._files: dict[int, tuple[int, str]] = {}  # of a device: our descriptor, and its name
        self._last = 0
        self._closing = 0  # input devices that no client has any more
        self._closer = rights.Closer(True)

    @property
    def leaving(self) -> bool:
        """See `Seat.leaving`."""
        return self._seat.leaving

    @property
    def held(self) -> bool:
        """Whether a client has the seat, or waits for it."""
        return self._seat.holder is not None

    def open(self) -> None:
        """Bind the socket. If something of the OS's own is in the way, it goes without a seat."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._closer = rights.Closer(rights.refuse(listener))
        try:
            # every user of the OS may have it; only its own OS gets here
            tree.bind(listener, self._vm.top_run_fd, NAME, 0o666)
            listener.listen(CLIENTS)
        except OSError as error:
            listener.close()
            log.warning("%s goes without a seat: %s", self.name, reason(error))
            return
        self._door = Door(listener, self._closer, self._enter)

    def enable(self) -> None:
        """The OS is foreground, and is master of its cards already."""
        self._do(self._seat.enable())

    def ask(self) -> None:
        """The OS is to let go."""
        self._do(self._seat.ask())

    def disable(self) -> None:
        """The OS has the screen no more. Its input devices are revoked; compositors open them
        again."""
        for fd, name in self._files.values():
            if name.startswith("event"):
                _revoke(fd)
        self._do(self._seat.disable())

    def close(self) -> None:
        """The OS is gone, or the host goes down. Twice is harmless."""
        for client in list(self._clients):
            self._hang_up(client)
        if self._door is not None:
            self._door.close()
            self._door = None
        self._seat = Seat(self._answers)

    # -- inside ------------------------------------------------------------------------------------

    def _enter(self, sock: socket.socket) -> None:
        if len(self._clients) >= CLIENTS:
            self._closer.close(sock)
            return
        self._last += 1
        self._clients[self._last] = sock, Bucket(RATE, BURST)
        self._seat.connected(self._last)
        asyncio.get_running_loop().add_reader(sock, self._read, self._last)

    def _read(self, client: int) -> None:
        before = self.leaving
        self._hear(client)
        if before and not self.leaving:
            self._handler.settled(self.name)

    def _hear(self, client: int) -> None:
        sock, bucket = self._clients[client]
        try:
            data, fds = self._closer.receive(sock, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", False
        if fds:
            self._handler.offence(self.name, "descriptors came along")
            self._hang_up(client)
        elif not data:
            self._hang_up(client)
        else:
            before = self._seat.messages
            self._do(self._seat.received(client, data))
            count = max(1, self._seat.messages - before)
            if client in self._clients and not bucket.take(time.monotonic(), count):
                self._handler.offence(self.name, f"more than {RATE:g} messages a second")
                self._hang_up(client)

    def _do(self, actions: Sequence[Action]) -> None:
        todo = list(actions)
        while todo:
            match todo.pop(0):
                case Send(client, data):
                    todo += self._send(client, data)
                case Open(client, device, name):
                    todo += self._open_device(client, device, name)
                case Shut(_, device, name):
                    self._shut(device, name)
                case Switch(session):
                    self._handler.switch(self.name, session)
                case Cut(client, why):
                    self._handler.offence(self.name, why)
                    self._end(client)
                case Left():
                    self._handler.left(self.name)
                case Came():
                    pass

    def _open_device(self, client: int, device: int, name: str) -> list[Action]:
        if client not in self._clients:
            return []
        card = name.startswith("card")
        try:
            if not card and self._closing >= DEVICES_MAX:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
            opened = self._handler.open_card if card else self._handler.open_event
            fd = opened(self.name, name)
        except OSError as error:
            self._seat.failed(client, device)
            return self._send(client, seatwire.error(error.errno or errno.EIO))
        self._files[device] = fd, name
        return self._send(client, seatwire.device_opened(device), fd)

    def _shut(self, device: int, name: str) -> None:
        fd, _ = self._files.pop(device, (-1, name))
        if fd < 0:
            return
        if name.startswith("card"):
            os.close(fd)
            self._handler.card_shut(self.name, name)
        else:
            _revoke(fd)
            self._closing += 1
            loop = asyncio.get_running_loop()
            loop.run_in_executor(closers, os.close, fd).add_done_callback(self._closed)

    def _closed(self, done: asyncio.Future[None]) -> None:
        self._closing -= 1
        done.result()

    def _send(self, client: int, data: bytes, fd: int = -1) -> list[Action]:
        """What is to be done if that could not be."""
        if client not in self._clients:
            return []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))] if fd >= 0 else []
        sent = 0
        try:
            sent = self._clients[client][0].sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:  # it is gone, which its socket will say too
            return []
        if sent == len(data):
            return []
        self._handler.offence(self.name, "a client of the seat does not read")
        self._end(client)
        return self._seat.gone(client)

    def _hang_up(self, client: int) -> None:
        self._end(client)
        self._do(self._seat.gone(client))

    def _end(self, client: int) -> None:
        sock, _ = self._clients.pop(client, (None, None))
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            self._closer.close(sock)


def _revoke(fd: int) -> None:
    """No copy of the open file reads or writes the device any more (EVIOCREVOKE)."""
    with contextlib.suppress(OSError):  # unplugged
        fcntl.ioctl(fd, _EVIOCREVOKE, 0)
