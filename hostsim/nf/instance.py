# SPDX-License-Identifier: Apache-2.0
"""One process of a network function, the daemon's side: started in the VM, told what it is to be,
begun, listened to, ended. The other side is hostsim/nf/runner.py, what they say nf/wire.py.

    told -> loaded -> begun -> ready

told: it loads its function and fills its memory, which takes longer than traffic may stand still;
so a spare process does that beforehand. loaded: it waits, perhaps for ever. begun: it opens eth0
with the AF_XDP socket that it is given, which can be one process's only. ready: it has; from now on
it hears of neighbours, and answers what it is asked. No state follows out of order; at any of them
it may end.
"""

import asyncio
import contextlib
import os
import select
import socket
import sys
from collections.abc import Sequence
from enum import Enum

from cext.ns.netns import socketpair_at
from hostsim.errors import HostsimError
from hostsim.logs import Logs, number_of
from hostsim.nf import wire
from hostsim.vm import Vm
from netns import rights


class State(Enum):
    """How far it is, see the module."""

    TOLD = "told"
    LOADED = "loaded"
    BEGUN = "begun"
    READY = "ready"


class Instance:
    """A process that runs `message.nf` in a VM, with its output in the VM's log. fds: what `open`
    has beside it; they stay the caller's. Raises HostsimError, OSError."""

    def __init__(self, vm: Vm, logs: Logs, message: wire.Open, fds: Sequence[int]) -> None:
        self._vm = vm
        self._logs = logs
        self._nf = message.nf
        self._asked = False
        self._heard: asyncio.Event | None = None  # somebody waits for the answer
        self.state = State.TOLD
        self.fit = False  # it has its function
        self.counted: dict[str, int] = {}  # as last answered
        self.silent = False  # has not answered in time
        with contextlib.ExitStack() as undo:
            kind = socket.SOCK_SEQPACKET
            self._control, theirs = socketpair_at(vm.netns_fd, socket.AF_UNIX, kind)
            self._closer = rights.Closer(rights.refuse(self._control))
            undo.callback(self._control.close)
            with theirs:
                output = logs.writer(vm.spec.name, vm.spec.log_size)
                self._output = number_of(output)
                try:
                    self.process = vm.popen(
                        [sys.executable, "-m", "hostsim.nf.runner"],
                        cwd="/",
                        stdin=theirs.fileno(),
                        stdout=output,
                        stderr=output,
                    )
                finally:
                    os.close(output)
            undo.callback(self.process.close)
            wire.send(self._control, message, fds)
            undo.pop_all()

    def loaded(self, seconds: float) -> bool:
        """Whether it has its function, or has failed at that, which `ready` reports; waits so
        long."""
        if self.state is State.TOLD and self._readable(seconds):
            with contextlib.suppress(wire.WireError):  # `ready` will not understand it either
                self.fit = isinstance(self._receive(), wire.Loaded)
            self.state = State.LOADED
        return self.state is not State.TOLD

    def begin(self, socket: int) -> None:
        """It is to open eth0 now, with this AF_XDP socket, which stays the caller's."""
        assert self.state in (State.TOLD, State.LOADED), self.state
        self.tell(wire.Begin(), [socket])
        self.state = State.BEGUN

    def ready(self, seconds: float) -> bool:
        """Whether it has opened eth0; waits so long. Raises HostsimError if it did not start."""
        assert self.state is State.BEGUN, self.state
        if not self._readable(seconds):
            return False
        why = ""
        try:
            message = self._receive()
            if isinstance(message, wire.Ready):
                self.state = State.READY
                return True
        except wire.WireError as error:
            why = str(error)
        raise self._failure(why)

    def refuse_unfit(self) -> None:
        """Raises HostsimError if it has not got its function."""
        if self.state is State.TOLD:
            raise self._failure("it was not loaded in time")
        if not self.fit:
            raise self._failure()

    def _failure(self, why: str = "") -> HostsimError:
        why = why or self.last_words() or "no reason given"
        return HostsimError(f"{self._vm.spec.name}: nf", f"{self._nf!r} did not start: {why}")

    def tell(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """One that has let too much wait is killed: nothing it is told would reach it."""
        try:
            wire.send(self._control, message, fds)
        except BlockingIOError:
            self.process.kill()

    async def hear(self, seconds: float) -> None:
        """Have `counted` up to date, and know whether it is `silent`; waits so long for one that
        was not silent before, and lets others run meanwhile. One at a time."""
        self._take_answer()
        if not self._asked:  # or it may never read what it is sent
            self.tell(wire.Ask())
            self._asked = True
        if not self.silent:
            loop = asyncio.get_running_loop()
            self._heard = asyncio.Event()
            loop.add_reader(self._control, self._heard.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), seconds)
            self._unhear()
        self._take_answer()
        self.silent = self._asked

    def last_words(self) -> str:
        """The last line that it has written: one that waits for its end may write meanwhile."""
        return self._logs.last_line(self._vm.spec.name, self._output)

    def change(self, nf: str, fds: Sequence[int]) -> None:
        """It is this shipped function from now on. fds: what `change` has beside it; they stay the
        caller's."""
        self._nf = nf
        self.tell(wire.Change(nf), fds)

    def end(self) -> None:
        """Have it end by itself, with what it has in hand sent."""
        with contextlib.suppress(OSError):  # it has ended
            self._control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End it, if it runs. Twice is harmless."""
        self._unhear()
        self._closer.close(self._control)
        self.process.close()

    def _receive(self) -> wire.Message | None:
        """Raises WireError."""
        message, fds = wire.receive(self._control, self._closer.shed)
        self._closer.shed(fds)  # none is asked for
        return message

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._control], [], [], seconds)[0])

    def _take_answer(self) -> None:
        """What it was asked for, if it has answered. What is no answer is none."""
        if not self._asked or self._control.fileno() < 0 or not self._readable(0):
            return
        try:
            message = self._receive()
        except wire.WireError:
            return
        if isinstance(message, wire.Counters):
            self._asked = False
            self.counted = dict(message.counters)

    def _unhear(self) -> None:
        if self._heard is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._heard.set()
            self._heard = None
