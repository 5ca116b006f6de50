# SPDX-License-Identifier: Apache-2.0
"""The KMC's ends of the agent sockets: one listening socket for each OS, in its own /run/hostsim.

Whom a message is from is known by the listener it came through. What an OS sends is not trusted:
sizes, numbers of connections and messages in one turn of the loop are bounded, new connections too
(`door`), and a connection that breaks the rules is closed. The resident agent is the process that
the daemon started itself (SO_PEERCRED); no other can answer for the OS.
"""

import asyncio
import logging
import os
import socket
import struct
import time
from subprocess import DEVNULL
from typing import Protocol

from hostsim import fence
from hostsim.errors import reason
from hostsim.kmc import wire
from hostsim.kmc.door import Bucket, Door
from hostsim.kmc.wire import Message, Type
from hostsim.vm import Vm
from netns import rights, tree
from netns.process import Process, environment

log = logging.getLogger("hostsim.kmc")

CONNECTIONS = 32
"""Most connections of one OS; further ones are closed at once."""

TURN = 16
"""Most messages read from one connection before the others have their turn."""

RATE, BURST = 100.0, 200.0
"""Messages a second that one OS may send, and how many at once; then its connection is closed."""

_CREDENTIALS = struct.Struct("iII")


class Handler(Protocol):
    """What the KMC does with messages. Called in the loop; must not raise."""

    def request(self, name: str, connection: "Connection", message: Message) -> None:
        """FLIP, NEXT or STATUS."""
        ...

    def released(self, name: str, sequence: int) -> None:
        """The resident agent answered RELEASE."""
        ...

    def ready(self, name: str) -> None:
        """The resident agent is there."""
        ...

    def beat(self, name: str) -> None:
        """The resident agent answered PING."""
        ...

    def offence(self, name: str, why: str) -> None:
        """Somebody broke the rules, and is cut off."""
        ...


class Connection:
    """One connection from an OS. Owned by its `AgentPort`."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.socket = sock
        self.pid = pid
        self.watching = False

    def send(self, message: Message) -> bool:
        """Send without waiting; False if the other end is gone or does not read."""
        try:
            self.socket.send(wire.encode(message), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True


class AgentPort:
    """The agent socket of one OS, and its resident agent. `close` ends both."""

    def __init__(self, name: str, vm: Vm, handler: Handler) -> None:
        self.name = name
        self.resident: Connection | None = None
        self._vm = vm
        self._handler = handler
        self._process: Process | None = None
        self._connections: set[Connection] = set()
        self._door: Door | None = None
        self._bucket = Bucket(RATE, BURST)
        self._closer = rights.Closer(True)

    def open(self) -> bool:
        """Bind the socket and start the agent. False: something of the OS's own is in the way, and
        it goes without. Raises OSError, HostsimError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._closer = rights.Closer(rights.refuse(listener))
        try:
            # every user of the OS may ask; only its own OS gets here
            tree.bind(listener, self._vm.run_fd, wire.NAME, 0o666)
            listener.listen(CONNECTIONS)
        except OSError as error:
            listener.close()
            log.warning("%s goes without its agent: %s", self.name, reason(error))
            return False
        self._door = Door(listener, self._closer, self._enter)
        spec = self._vm.spec.os
        hooks = {
            f"HOSTSIM_ON_{state.upper()}": command
            for state, command in (
                ("foreground", spec.on_foreground if spec else None),
                ("background", spec.on_background if spec else None),
            )
            if command is not None
        }
        self._process = self._vm.popen(
            [str(fence.AGENT)],
            program=fence.base().agent_fd,
            stdout=DEVNULL,
            cwd="/",
            env={**environment(os.environ), **hooks},
        )
        asyncio.get_running_loop().add_reader(self._process.fileno(), self._ended)
        return True

    def tell(self, message: Message) -> bool:
        """Send to the resident agent; False if there is none that listens."""
        return self.resident is not None and self.resident.send(message)

    def announce(self, message: Message) -> None:
        """Send to everybody who watches; one that does not read is dropped."""
        for connection in [c for c in self._connections if c.watching]:
            if not connection.send(message):
                self._drop(connection)

    def close(self) -> None:
        """End the agent and all connections. Twice is harmless."""
        for connection in list(self._connections):
            self._drop(connection)
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process.fileno())
            self._process.close()
            self._process = None

    def _ended(self) -> None:
        """The resident agent has ended. It is reaped at once: process 1 of its OS cannot end before
        (pid_namespaces(7)), and its end is what tells of the end of an OS that boots."""
        assert self._process is not None
        if self._process.poll() is not None:
            asyncio.get_running_loop().remove_reader(self._process.fileno())

    def _enter(self, sock: socket.socket) -> None:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if len(self._connections) >= CONNECTIONS:
            self._closer.close(sock)
            return
        connection = Connection(sock, _CREDENTIALS.unpack(raw)[0])
        self._connections.add(connection)
        asyncio.get_running_loop().add_reader(sock, self._read, connection)

    def _read(self, connection: Connection) -> None:
        for _ in range(TURN):
            try:
                data, fds = self._closer.receive(connection.socket, wire.SIZE_MAX + 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", False
            if fds:
                self._offence(connection, "descriptors came along")
                return
            if not data:
                self._drop(connection)
                return
            try:
                message = wire.decode(data)
            except wire.WireError as error:
                self._offence(connection, str(error))
                return
            if not self._bucket.take(time.monotonic()) and connection is not self.resident:
                self._offence(connection, f"more than {RATE:g} messages a second")
                return
            self._handle(connection, message)
            if connection not in self._connections:
                return

    def _handle(self, connection: Connection, message: Message) -> None:
        resident = connection is self.resident
        if message.type is Type.HELLO and self._is_resident(connection):
            self.resident = connection
            self._handler.ready(self.name)
        elif message.type is Type.RELEASED and resident:
            self._handler.released(self.name, message.sequence)
        elif message.type is Type.BEAT and resident:
            self._handler.beat(self.name)
        elif message.type is Type.WATCH:
            connection.watching = True
            connection.send(Message(Type.OK, message.sequence, "{}"))
        elif message.type in (Type.FLIP, Type.NEXT, Type.STATUS):
            self._handler.request(self.name, connection, message)
        else:
            self._offence(connection, f"{message.type.name} is not for it")

    def _offence(self, connection: Connection, why: str) -> None:
        self._handler.offence(self.name, why)
        self._drop(connection)

    def _is_resident(self, connection: Connection) -> bool:
        return self._process is not None and connection.pid == self._process.pid

    def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            asyncio.get_running_loop().remove_reader(connection.socket)
            self._closer.close(connection.socket)
        if connection is self.resident:
            self.resident = None
