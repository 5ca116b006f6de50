"""One packet network function, the daemon's side: its process in the VM, and what it is given.

A VM with `nf` gets: an XDP program on its eth0 that hands every frame to the NF's AF_XDP socket
(and drops while there is none; ARP and broadcasts are the kernel's, which answers for the VM's own
addresses); a port on the switch that floods nothing to it but broadcasts where it has an address,
learns nothing from it, and finishes checksums and segments before its frames leave the kernel; the
runner process (hostsim/nf/runner.py), told everything over a socket of its own; a table of routing
rules that it can only read (cext/port/rules.h), and a tally that it writes (cext/port/tally.h). The
tables outlive the process.

Packet memory is the process's own, or, where functions share it, a part of one umem: two ranges of
frames for each, used by turns, because others may still hold frames of a process that has died.
"""

import array
import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cext.bpf import objects as bpf
from cext.port.port import Rules, offload_off
from cext.port.tally import Tally
from cext.ring.channel import Shape, make_region
from hostsim.errors import HostsimError
from hostsim.model import Json
from hostsim.nf import settings
from hostsim.nf.runner import FRAME_SIZE, FRAMES
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.links import Rtnl
from netns.process import Process

ANSWER_MAX = 64 * 1024
READY = 20.0  # seconds for a function to open its port
SPARE = 0.05  # seconds from a start until the next process to wait is started: traffic comes first
RESPAWN = 5.0  # seconds between attempts at one, where it does not stay
XDP_FLAGS_DRV_MODE = 4


class Memory:
    """One umem for the functions of a group. `fd` is to be handed to them."""

    def __init__(self, vms: Sequence[int]) -> None:
        self.frames = 2 * FRAMES * len(vms)
        self.fd = make_region(self.frames * FRAME_SIZE)
        self._places = {vm: place for place, vm in enumerate(vms)}

    def first(self, vm: int, nth: int) -> int:
        """The first of the FRAMES frames that the VM's nth process begins with."""
        return (2 * self._places[vm] + nth % 2) * FRAMES

    def close(self) -> None:
        """Twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Function:
    """One VM's network function. `start` may be called again after its process has ended."""

    def __init__(
        self, vm: Vm, switch: Switch, folder: Path, log_path: Path, settings: Json
    ) -> None:
        self.vm = vm
        self.rules = Rules()
        self.tally = Tally(vm.index)
        self.memory: Memory | None = None  # None: of its own; else not owned
        self.process: Process | None = None
        self.restarts = 0  # in a row
        self.starts = 0
        self.why = ""  # it last ended
        self.began = 0.0
        self.due: float | None = None  # when to start again
        self._switch = switch
        self._folder = folder
        self._log = log_path
        self._settings = settings
        self._again = 0.0  # when to try for a spare once more
        self._loaded = False  # the spare is
        self._kept = -1
        if settings.get("keeps"):
            self._kept = os.memfd_create("hostsim-connections", os.MFD_CLOEXEC)
        self._spare: tuple[Process, socket.socket] | None = None
        self._capture: bpf.Object | None = None
        self._control: socket.socket | None = None
        self._asked = False
        self._heard: asyncio.Event | None = None  # somebody waits for the answer
        self.counted: dict[str, int] = {}  # as last answered
        self.silent = False  # has not answered in time

    def prepare(self) -> None:
        """Make the switch's port and the VM's eth0 ready, once. Raises OSError."""
        port = self.vm.spec.name
        self._switch.rtnl.batch(
            lambda batch: batch.brport(
                "set",
                index=self.vm.port,
                learning=0,
                unicast_flood=0,
                mcast_flood=0,
                bcast_flood=int(bool(self.vm.spec.addresses)),  # ARP for them
            )
        )
        offload_off(self._switch.netns_fd, port)
        self._capture = bpf.Object("capture")
        program = self._capture.program("capture")
        rtnl = Rtnl(self.vm.netns_fd)
        try:
            rtnl.batch(lambda batch: batch.link("set", index=self.vm.eth0, state="up"))
            rtnl.batch(
                lambda batch: batch.link(
                    "set",
                    index=self.vm.eth0,
                    IFLA_XDP={
                        "attrs": [
                            ("IFLA_XDP_FD", program),
                            ("IFLA_XDP_FLAGS", XDP_FLAGS_DRV_MODE),
                        ]
                    },
                )
            )
        finally:
            rtnl.close()

    def spawn(self) -> None:
        """Have a process in the VM that has everything but eth0, and waits for it: starting an
        interpreter, finding the function and filling its memory take longer than traffic may stand
        still. One that has failed stays, for `start` to report; one that was killed does not.
        Raises HostsimError, OSError."""
        if self._spare is not None and self._spare[0].poll() != -signal.SIGKILL:
            return
        self.drop_spare()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = self.vm.popen(
                [sys.executable, "-m", "hostsim.nf.runner"],
                cwd="/",
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
            )
            self._spare = (process, ours)
            self._loaded = False
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(output)
        self._tell(ours)

    def keep_spare(self) -> None:
        """Have a process that waits, if the function runs, and not at once where the last one did
        not stay. Raises HostsimError, OSError."""
        now = time.monotonic()
        waits = self._spare is not None and self._spare[0].poll() is None
        if self.process is None or waits or now < max(self.began + SPARE, self._again):
            return
        self._again = now + RESPAWN
        self.drop_spare()
        self.spawn()

    def _tell(self, control: socket.socket) -> None:
        """What it is to be."""
        message: Json = {
            "do": "open",
            "nf": self.vm.spec.nf,
            "folder": str(self._folder),
            "rules": self.rules.entries,
            "tally": self.tally.entries,
        }
        fds = [self.rules.fd, self.tally.fd]
        if self.memory is not None:
            message["frames"] = self.memory.frames
            message["first"] = self.memory.first(self.vm.index, self.starts)
            fds.append(self.memory.fd)
        with settings.handed(self._settings) as handed:
            _send(control, message, [*fds, *([self._kept] if self._kept >= 0 else []), handed])

    def loaded(self, seconds: float = 0.0) -> bool:
        """Whether `start` would find a process that has loaded its function, or has failed at it,
        which `start` reports; waits so long for it."""
        if self._spare is None:
            return False
        control = self._spare[1]
        if not self._loaded and select.select([control], [], [], seconds)[0]:
            self._loaded = True
            with contextlib.suppress(ConnectionResetError):
                control.recv(64)
        return self._loaded

    def start(self) -> None:
        """Make the waiting process the function, and put its socket into place. The next one to
        wait is for `spawn` to start, when the traffic is back. Raises HostsimError, OSError."""
        self.spawn()
        self.loaded(READY)
        assert self._spare is not None
        self.process, self._control = self._spare
        self._spare = None
        self.began = time.monotonic()
        self.starts += 1
        self._asked = self.silent = False
        self.counted = {}
        self._again = 0.0
        self.due = None
        self._send({"do": "begin"})
        self._socket_into_place()

    def drop_spare(self) -> None:
        """End the process that waits, if there is one."""
        if self._spare is not None:
            process, control = self._spare
            control.close()
            process.close()
            self._spare = None

    def _socket_into_place(self) -> None:
        assert self._control is not None
        if not select.select([self._control], [], [], READY)[0]:
            raise HostsimError(f"{self.vm.spec.name}: nf", f"not ready after {READY:.0f} s")
        try:
            data, handles, _, _ = socket.recv_fds(self._control, 4096, 1)
        except ConnectionResetError:  # it has ended, with something unread
            data, handles = b"", []
        if not data or len(handles) != 1:
            raise HostsimError(
                f"{self.vm.spec.name}: nf",
                f"{self.vm.spec.nf!r} did not start: {self.last_words() or 'no reason given'}",
            )
        assert self._capture is not None
        try:
            self._capture.map("sockets").set(struct.pack("=I", 0), struct.pack("=i", handles[0]))
        finally:
            os.close(handles[0])

    def _send(self, message: Json, fds: Sequence[int] = ()) -> None:
        assert self._control is not None
        try:
            _send(self._control, message, fds)
        except BlockingIOError:
            if self.process is not None:
                self.process.kill()  # it does not read: nothing it is told would reach it

    def neighbour(self, vm: int, shape: Shape, fds: tuple[int, int, int, int]) -> None:
        """Give it the rings to and from another, the bell to hear and the bell to ring; they stay
        the caller's."""
        self._send({"do": "neighbour", "vm": vm, "shape": asdict(shape)}, fds)

    def forget(self, vm: int) -> None:
        """Its neighbour is gone."""
        self._send({"do": "forget", "vm": vm})

    def ask(self) -> None:
        """Ask for the counters, which `answer` has then. One that has not answered yet is not asked
        again: it may never read what it is sent."""
        if self._control is None or (self._asked and not self._answered(0)):
            return
        self._send({"do": "counters"})
        self._asked = True

    def answer(self, deadline: float) -> dict[str, int]:
        """What was asked for; empty where it does not answer until then (time.monotonic)."""
        data = self._answered(max(0.0, deadline - time.monotonic()))
        found: dict[str, int] = json.loads(data)["counters"] if data else {}
        self.counted = found or self.counted
        return found

    async def hear(self, seconds: float) -> None:
        """Have `counted` up to date, and know whether it is `silent`; waits so long for one that
        was not silent before, and lets others run meanwhile. One at a time."""
        self.ask()
        if self._control is not None and self._asked and not self.silent:
            loop = asyncio.get_running_loop()
            self._heard = asyncio.Event()
            loop.add_reader(self._control, self._heard.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), seconds)
            self._unhear()
        self.answer(0.0)
        self.silent = self._asked

    def _unhear(self) -> None:
        if self._heard is not None and self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._heard.set()
            self._heard = None

    def _answered(self, seconds: float) -> bytes:
        if self._control is None or not self._asked:
            return b""
        if not select.select([self._control], [], [], seconds)[0]:
            return b""
        self._asked = False
        try:
            return self._control.recv(ANSWER_MAX)
        except ConnectionResetError:  # it has ended, which is seen elsewhere
            return b""

    @property
    def state(self) -> str:
        """`running`; `restarting`: it has ended, and is started again; `failed`: it is not."""
        if self.process is not None and self.process.poll() is None:
            return "running"
        return "failed" if self.process is None and self.due is None else "restarting"

    def last_words(self) -> str:
        """The last line of the VM's log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def ended(self) -> None:
        """Let go of a process that has ended, or end it."""
        self._unhear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.process is not None:
            self.process.close()
            self.process = None

    def close(self) -> None:
        """Twice is harmless."""
        self.ended()
        self.drop_spare()
        self.rules.close()
        self.tally.close()
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1
        if self._capture is not None:
            self._capture.close()
            self._capture = None


def _send(control: socket.socket, message: Json, fds: Sequence[int] = ()) -> None:
    """Raises BlockingIOError where the other end has let too much wait. Not socket.send_fds, which
    leaves the flags out."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is seen elsewhere
        control.sendmsg([json.dumps(message).encode()], rights, socket.MSG_DONTWAIT)
