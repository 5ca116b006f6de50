# SPDX-License-Identifier: Apache-2.0
"""The programs that a host file gives its VMs and endpoints (`run`): started when the switch
stands, each with a log of its own (logs.py), and watched until it ends. In a VM with `restart`, one
that fails is started again, at the pace of restart.VM.
"""

import asyncio
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hostsim.errors import HostsimError
from hostsim.logs import Logs
from hostsim.restart import VM, Backoff
from hostsim.vm import Vm
from netns import namespace
from netns.process import Process

log = logging.getLogger("hostsim.host")

SETTLE = 1.0
"""Seconds a program may take to end or to listen before `up` goes on without knowing."""


class Programs:
    """Starts them in `folder`, with logs in `logs`. watch, unwatch: a descriptor, in the host's
    loop. failed: the VMs whose program ended with a status that is not 0."""

    def __init__(
        self,
        vms: Mapping[str, Vm],
        folder: Path,
        logs: Path,
        watch: Callable[[int, Callable[[], Any]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._vms = vms
        self._folder = folder
        self.logs = Logs(logs)
        self._watch = watch
        self._unwatch = unwatch
        self._running: dict[str, Process] = {}
        self._watched: set[str] = set()
        self._consoles: dict[str, int] = {}
        self.failed: set[str] = set()
        self._backoffs: dict[str, Backoff] = {}
        self._hears = True
        self._due: dict[str, asyncio.TimerHandle] = {}  # when those that failed start again

    async def start(self, names: Sequence[str]) -> None:
        """Start those of these VMs; returns when each has ended well, listens, or had SETTLE to.
        Raises HostsimError."""
        for name in names:
            self._start(name)
        await asyncio.gather(*(self._settled(name) for name in names))
        for name in names:
            self._check(name)

    def hear(self, name: str, console: int) -> None:
        """Have what comes out of a console's master in the VM's log; the descriptor stays the
        caller's. Raises OSError."""
        if name in self._consoles:
            self.logs.abandon(name, self._consoles.pop(name))
        ours = os.dup(console)
        self.logs.adopt(name, self._vms[name].spec.log_size, ours)
        self._consoles[name] = ours

    def start_again(self, name: str) -> None:
        """Start one in a VM that is new, and do not wait. Raises HostsimError."""
        self._start(name)
        self.failed.discard(name)
        self._attend(name)

    def forget(self, name: str) -> None:
        """Its VM is dead or ends: let go of what ran there, if anything did. It is killed, and not
        waited for: that is done by who stops the VM (Vm.stop)."""
        self._wait_no_more(name)
        program = self._let_go(name)
        if program is not None:
            program.kill()

    def leave(self, names: Iterable[str]) -> None:
        """Their VMs have left the host, and ended: nothing of them stays but their logs."""
        for name in names:
            self.forget(name)
            if name in self._consoles:
                self.logs.abandon(name, self._consoles.pop(name))
            self.failed.discard(name)
            self._backoffs.pop(name, None)

    def hear_no_more(self) -> None:
        """None of them is started again."""
        for name in list(self._due):
            self._wait_no_more(name)
        self._hears = False

    def kill(self) -> None:
        """SIGKILL them all, and do not wait."""
        for program in self._running.values():
            program.kill()

    def close(self) -> None:
        """Let go of them. Twice is harmless."""
        while self._running:
            self._running.popitem()[1].close()
        self.logs.close()

    def _start(self, name: str) -> None:
        run = self._vms[name].spec.run
        assert run is not None
        output = self.logs.writer(name, self._vms[name].spec.log_size)
        try:
            self._running[name] = self._vms[name].popen(
                shlex.split(run), cwd=str(self._folder), stdout=output, stderr=output
            )
        finally:
            os.close(output)

    async def _settled(self, name: str) -> None:
        """Wait until the program has ended, its VM has a socket that listens, or SETTLE is over."""
        loop = asyncio.get_running_loop()
        program = self._running[name]
        ended = asyncio.Event()
        loop.add_reader(program.fileno(), ended.set)
        deadline = loop.time() + SETTLE
        try:
            while not namespace.listens(self._vms[name].pid) and loop.time() < deadline:
                try:
                    await asyncio.wait_for(ended.wait(), 0.01)
                except TimeoutError:
                    continue
                return
        finally:
            loop.remove_reader(program.fileno())

    def _check(self, name: str) -> None:
        status = self._running[name].poll()
        if status is None:
            self._attend(name)
        elif status != 0:
            last = self.logs.last_line(name)
            raise HostsimError(
                f"{name}: run",
                f"{self._vms[name].spec.run!r} ended with status {status}: "
                f"{last or 'it has written nothing'}",
            )

    def _attend(self, name: str) -> None:
        self._watched.add(name)
        self._watch(self._running[name].fileno(), lambda: self._ended(name))

    def _let_go(self, name: str) -> Process | None:
        program = self._running.pop(name, None)
        if program is not None:
            self._leave(name, program)
        return program

    def _leave(self, name: str, program: Process) -> None:
        if name in self._watched:
            self._watched.discard(name)
            self._unwatch(program.fileno())

    def _ended(self, name: str) -> None:
        program = self._running[name]
        self._leave(name, program)
        status = program.poll()
        if status != 0:
            self.failed.add(name)
            self._again_later(name)
        log.log(
            logging.INFO if status == 0 else logging.ERROR,
            "%s: its program ended with status %s; %s",
            name,
            status,
            self.logs.last_line(name),
        )

    def _again_later(self, name: str) -> None:
        """A program has failed, or could not be started again."""
        if self._vms[name].spec.restart != "on-failure" or not self._hears:
            return
        loop = asyncio.get_running_loop()
        delay = self._backoffs.setdefault(name, Backoff()).died(loop.time())
        if delay is None:
            log.error("%s: its program is given up after %d starts in a row", name, VM.limit)
            return
        self._due[name] = loop.call_later(delay, self._again, name)

    def _again(self, name: str) -> None:
        del self._due[name]
        if not self._vms[name].alive:
            return  # it is started with its VM
        former = self._let_go(name)
        if former is not None:
            former.close()  # it has ended
        try:
            self.start_again(name)
        except (OSError, HostsimError) as error:
            log.error("%s: its program cannot be started again: %s", name, error)
            self._again_later(name)
            return
        self._backoffs[name].started(asyncio.get_running_loop().time())
        log.info("%s: its program is started again", name)

    def _wait_no_more(self, name: str) -> None:
        waiting = self._due.pop(name, None)
        if waiting is not None:
            waiting.cancel()
