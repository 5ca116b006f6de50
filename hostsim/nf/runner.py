# SPDX-License-Identifier: Apache-2.0
"""A network function in its VM: the process that the daemon starts there.

Descriptor 0 is a socket to the daemon (hostsim/nf/instance.py), which is the only one it talks to,
by the messages of hostsim/nf/wire.py. What it does not understand ends it, with the reason on
stderr: the VM's log.

What `nf` may be: a name of `SHIPPED`, which gets its settings (hostsim/nf/settings.py);
`package.module:function`, called with a `hostsim.nf.Port`, found beside the host file or on
Python's path; a C plug-in (`./my_nf.so`) with a function `hs_nf` (cext/include/hostsim/nf.h).
"""

import errno
import importlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cext.port.port import Port
from hostsim.errors import HostsimError
from hostsim.model import Json
from hostsim.nf import plugin, wire
from hostsim.nf.shipped import SHIPPED

RING = 1024
PAGE = 4096
"""Bytes of a packet that each kernel takes in one piece, at most."""
FREED = 2.0  # seconds


def load(name: str, folder: str, settings: Json | None = None) -> Callable[[Port], None]:
    """The function a host file names. settings: a shipped one's. Raises ValueError with what is
    wrong, or HostsimError with what is wrong with a plug-in."""
    if name in SHIPPED:
        return lambda port: SHIPPED[name](port, settings or {})
    if name.endswith(".so"):
        judge, library = plugin.load(Path(folder, name))
        return lambda port: port.run(judge, None) if library else None
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"no network function {name!r}; there are: {', '.join(SHIPPED)}")
    sys.path.insert(0, folder)
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f"module {module} has no function {function}")
    return found  # type: ignore[no-any-return]


def eth0(port: Port, socket: int) -> None:
    """Open the AF_XDP socket. The kernel lets go of a killed process's socket a little after its
    end, and says EBUSY until then. Raises OSError; HostsimError if the kernel is too old."""
    deadline = time.monotonic() + FREED
    while True:
        try:
            return port.eth0(socket, "eth0", RING)
        except OSError as error:
            if error.errno == errno.EINVAL and port.frame_size > PAGE:
                raise HostsimError(
                    "mtu", "this kernel hands over no packet in pieces", "Linux 6.6 does"
                ) from None
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        select.select([], [], [], 0.001)  # nothing tells when


def given(fds: Sequence[int]) -> Json:
    """The settings that came last of these descriptors, with what outlives the process if they say
    so. Raises OSError, ValueError."""
    found: Json = json.loads(os.pread(fds[-1], os.fstat(fds[-1]).st_size, 0))
    if found.get("keeps"):
        found["kept"] = os.dup(fds[-2])  # the function's
    return found


class Control:
    """The NF's end of the socket to the daemon."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._folder = ""
        self.port: Port | None = None
        self.next: Callable[[Port], None] | None = None
        """What is to be called when the function has returned; None: nothing."""

    def open(self) -> tuple[Callable[[Port], None], Port] | None:
        """Find the function and make the port as the first message says; at the second, open eth0,
        which can be one process's only, and answer; None: nothing is wanted. Raises OSError,
        HostsimError, ValueError, ImportError."""
        message, fds = wire.receive(self._socket)
        if not isinstance(message, wire.Open):
            return None
        settings, self._folder = given(fds), message.folder
        function = load(message.nf, message.folder, settings)
        port = Port(message.frames, message.frame_size, fds[2], message.first, message.own)
        port.rules(fds[0], message.rules)
        port.tally(fds[1], message.tally)
        if settings["tapped"]:
            port.tap(fds[3])
        wire.close(fds)
        wire.send(self._socket, wire.Loaded())
        begin, sockets = wire.receive(self._socket)
        if not isinstance(begin, wire.Begin):
            return None
        eth0(port, *sockets)
        wire.send(self._socket, wire.Ready())
        self.port = port
        port.control = self._socket.fileno()
        port.on_control = self.serve
        return function, port

    def serve(self) -> bool:
        """Do what the daemon says; False: end."""
        assert self.port is not None
        message, fds = wire.receive(self._socket)
        if message is None:
            return False
        if isinstance(message, wire.Neighbour):
            out, into, bell_in, bell_out = fds
            self.port.neighbour(message.vm, message.shape, out, into, (bell_in, bell_out))
            os.close(out)
            os.close(into)
        elif isinstance(message, wire.Forget):
            self.port.forget(message.vm)
        elif isinstance(message, wire.Change):
            self.next = load(message.nf, self._folder, given(fds))
            wire.close(fds)
            return False
        elif isinstance(message, wire.Ask):
            wire.send(self._socket, wire.Counters(self.port.counters()))
        else:
            raise wire.WireError(f"the daemon says {message}")
        return True


def main() -> int:
    """Run the function until the daemon closes its end."""
    with socket.socket(fileno=os.dup(0)) as sock:
        control = Control(sock)
        try:
            opened = control.open()
        except (HostsimError, OSError, ValueError, ImportError, AttributeError) as error:
            print(error, file=sys.stderr)
            return 1
        if opened is not None:
            function, port = opened
            try:
                function(port)
                while control.next is not None:
                    function, control.next = control.next, None
                    port.renew()
                    function(port)
            finally:
                port.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
