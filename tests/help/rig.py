# SPDX-License-Identifier: Apache-2.0
"""A multi-OS device for the input tests: two OSes, a KMC, and devices made through uinput.

Everything real: `Vm`s with their namespaces, the KMC in an asyncio loop on a thread of its own,
typists and readers as processes. There is no switch: what a flip does is no business of it.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from help.programs import PROGRAMS
from help.waiting import until
from hostsim.kmc.kmc import Kmc
from hostsim.model import DeviceMode, DeviceSpec, HostSpec, KmcSpec, OsSpec, VmSpec
from hostsim.vm import Vm
from netns.journal import Journal
from netns.process import Process

DEADLINE = 90.0
"""Seconds; the test VM's emulated processor is some 20 times slower than this one, and others may
be using that one."""

LENIENT = 20.0
"""Seconds for an agent to answer and programs to read on, if a test is not about those that do not.
Shorter than DEADLINE, within which a flip is to be done."""


T = TypeVar("T")


class Typist:
    """typist.py as a process.

    node, rdev: of its device. place: a path by which the node can be opened, wherever it is.
    """

    def __init__(self, kind: str, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, PROGRAMS / "typist.py", kind, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.node = self._line()
        self._place = os.open(self.node, os.O_PATH)
        self.place = f"/proc/{os.getpid()}/fd/{self._place}"
        self.rdev = os.fstat(self._place).st_rdev

    def __call__(self, *lines: str) -> str:
        """Do these; the last answer."""
        assert self._process.stdin is not None
        answer = ""
        for line in lines:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._line()
        return answer

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def unplug(self) -> None:
        """The device goes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdin.closed:
            return
        self._process.stdin.close()
        self._process.wait(DEADLINE)
        self._process.stdout.close()
        os.close(self._place)


class Reader:
    """reader.py in an OS."""

    def __init__(self, vm: Vm, path: Path, *words: str) -> None:
        self.path = path
        path.touch()
        program = [sys.executable, "-I", "-S", str(PROGRAMS / "reader.py")]
        self.process = vm.popen([*program, str(path), *words])
        until(lambda: "ready" in self.lines(), DEADLINE, "reader ready")

    def lines(self) -> list[str]:
        """All it wrote, but for a line that it is just writing."""
        whole, _, _ = self.path.read_text().rpartition("\n")
        return whole.splitlines()

    def events(self) -> list[tuple[int, int, int]]:
        """(type, code, value) in order."""
        words = [line.split() for line in self.lines() if line.startswith("event ")]
        return [(int(w[2]), int(w[3]), int(w[4])) for w in words]

    def pressed(self) -> list[tuple[int, int]]:
        """(code, value) of key events, without autorepeat: how long a key is down is a matter of
        the machine's speed."""
        return [(code, value) for kind, code, value in self.events() if kind == 1 and value < 2]

    def opened(self) -> int:
        """How many nodes are open now."""
        lines = self.lines()
        return sum(x.startswith("open ") for x in lines) - sum(x.startswith("gone ") for x in lines)


class Puppet:
    """hostile.py puppet: in an OS, or, without one, on the machine itself."""

    def __init__(self, vm: Vm | None) -> None:
        argv = [sys.executable, "-I", "-S", str(PROGRAMS / "hostile.py"), "puppet"]
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = vm.popen(argv, **streams) if vm else subprocess.Popen(argv, **streams)
        assert self._line() == "ready"

    def __call__(self, *words: object) -> str:
        """Have it do this; its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def end(self) -> None:
        """It goes; those in an OS go with it at the latest."""
        self._process.kill()
        self._process.wait(DEADLINE)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Rig:
    """The OSes and the KMC. `start` first."""

    def __init__(self, spec: HostSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.journal = Journal(folder / "journal")
        common = ((str(folder), False),)  # where readers and others in an OS write for the test
        self.vms = {
            v.name: Vm(spec.name, replace(v, share=common), i) for i, v in enumerate(spec.vms, 1)
        }
        self.kmc = Kmc(spec, self.vms, self.journal)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._typists: list[Typist] = []
        self._readers: list[tuple[str, Reader]] = []

    def typist(self, kind: str, name: str) -> Typist:
        """A device that goes with the rig at the latest."""
        made = Typist(kind, name)
        self._typists.append(made)
        return made

    def start(self) -> None:
        self._thread.start()
        for vm in self.vms.values():
            vm.start(self.journal)
        self.call(self.kmc.start())

    def join(self, name: str, os: OsSpec) -> Vm:
        """What an apply does about an OS that comes."""
        common = ((str(self.folder), False),)
        vm = Vm(self.spec.name, VmSpec(name, os=os, share=common), len(self.vms) + 1)
        vm.start(self.journal)
        try:
            self.call(self.kmc.join({name: vm}))  # it is in `vms` then
        except BaseException:
            vm.stop()
            raise
        self.now(lambda: self.kmc.admit([name]))
        return vm

    def leave(self, name: str) -> Vm:
        """What an apply does about one that goes, but for its end: the caller stops it."""
        vm = self.vms[name]
        self.now(lambda: self.kmc.bar([name]))
        self.now(lambda: self.kmc.part([name]))
        self._readers = [(os, reader) for os, reader in self._readers if os != name]
        return vm

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the KMC's loop."""
        return self.begin(coroutine).result(DEADLINE)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the KMC's loop, and do not wait."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def now(self, function: Callable[[], T]) -> T:
        """Call a function in the KMC's loop."""

        async def run() -> T:
            return function()

        return self.call(run())

    def flip(self, name: str, seen: bool = True) -> dict[str, Any]:
        """seen: in direct mode, return once the readers in the OS before have seen their devices
        go. Else one that is slow counts its old file as open after the flip back."""
        done = self.call(self.kmc.flip(name, "test"))
        if seen and self.spec.devices[0].mode == "direct":
            for os, reader in self._readers:
                if os != name:
                    until(lambda: reader.opened() == 0, DEADLINE, f"{os} has lost its devices")  # noqa: B023
        return done

    def agent(self, name: str) -> Process:
        """The resident agent of an OS."""
        process = self.now(lambda: self.kmc._ports[name]._process)
        assert process is not None
        return process

    def devices(self) -> list[dict[str, Any]]:
        return self.now(self.kmc.devices)

    def status(self) -> dict[str, Any]:
        return self.now(self.kmc.status)

    def reader(self, name: str, *words: str) -> Reader:
        made = Reader(self.vms[name], self.folder / f"{name}.{time.monotonic_ns()}", *words)
        self._readers.append((name, made))
        return made

    def popen(self, name: str, *argv: str, **streams: Any) -> Process:
        return self.vms[name].popen(list(argv), **streams)

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.journal.close)
            for typist in self._typists:
                stack.callback(typist.unplug)
            if self._thread.is_alive():
                stack.callback(self._end_loop)
                for vm in self.vms.values():
                    stack.callback(vm.stop)
                self.call(self.kmc.stop())

    def _end_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


class Old:
    """old.py in an OS."""

    def __init__(self, rig: Rig, name: str, node: str) -> None:
        self._path = rig.folder / f"old-{name}"
        self._path.touch()
        argv = [sys.executable, "-I", "-S", str(PROGRAMS / "old.py"), str(self._path), node]
        self.process = rig.popen(name, *argv)

    def lines(self) -> list[str]:
        return self._path.read_text().rpartition("\n")[0].splitlines()

    def reads(self) -> bool:
        """Whether it has the node open."""
        marks = [line for line in self.lines() if line in ("ready", "gone")]
        return marks[-1:] == ["ready"]

    def read(self, word: str) -> list[str]:
        """What it has read: all lines that begin so."""
        return [line for line in self.lines() if line.startswith(word)]


def spec(mode: DeviceMode, **changes: Any) -> HostSpec:
    """Host `inp`: OSes work and play, keyboards and mice of the typists in one mode."""
    kmc = changes.pop("kmc", KmcSpec("work", LENIENT))
    hotkey = changes.pop("hotkey", ())
    return HostSpec(
        name="inp",
        path=Path("/"),
        vms=(VmSpec("work", os=OsSpec()), VmSpec("play", os=OsSpec())),
        devices=(
            DeviceSpec(0, {"name": "Test Keyboard*"}, mode, hotkey),
            DeviceSpec(1, {"name": "Test Mouse*"}, mode),
        ),
        kmc=kmc,
        **changes,
    )
