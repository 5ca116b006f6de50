# SPDX-License-Identifier: Apache-2.0
"""One packet network function, the daemon's side: its processes in the VM, and what they are given.

A VM with `nf` has: an eth0 whose frames go to the function (hostsim/nf/eth0.py); a process that is
the function, and a spare one that can become it (hostsim/nf/instance.py); a table of routing rules
that these can only read (cext/port/rules.h), a tally that they write (cext/port/tally.h), and a tap
that they write while somebody captures (cext/sight/tap.h). All three outlive the processes.

Packet memory is one umem for each process, or, if functions share it, a part of one for all: two
ranges of frames for each, used by turns, because others may still hold frames of a process that has
died. The daemon makes it, and an AF_XDP socket over it (cext/port/xsk.h); a process fills its umem
as it loads, so that the pages count for its VM.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from cext.port.port import make_socket
from cext.port.rules import Rules
from cext.port.tally import Tally
from cext.ring.channel import Shape, make_region
from cext.sight.tap import make_tap
from hostsim.errors import HostsimError
from hostsim.logs import Logs
from hostsim.model import Json
from hostsim.nf import settings, wire
from hostsim.nf.eth0 import Eth0
from hostsim.nf.frames import USUAL, Frames
from hostsim.nf.instance import Instance, State
from hostsim.nf.runner import RING
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.process import Process

READY = 20.0  # seconds for a function to load, and for it to open its port
SPARE = 0.05  # seconds from a start until the next process to wait is started: traffic comes first
RESPAWN = 5.0  # seconds between attempts at one that does not stay


class Umem:
    """The umem of one process, or of so many. `fd` is to be handed to it."""

    def __init__(self, shape: Frames, processes: int = 1) -> None:
        self.shape = shape
        self.frames = processes * shape.count
        self.fd = make_region(self.frames * shape.size)

    def socket(self, netns_fd: int) -> int:
        """An AF_XDP socket over it, of that namespace; the caller's. Raises OSError."""
        size = self.shape.size
        return make_socket(netns_fd, self.fd, self.frames * size, size, RING)

    def first(self, vm: int, nth: int) -> int:
        """The first of the frames that the VM's nth process begins with."""
        return 0

    def close(self) -> None:
        """Twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Memory(Umem):
    """One umem for the functions of a group."""

    def __init__(self, shape: Frames, vms: Sequence[int]) -> None:
        super().__init__(shape, 2 * len(vms))
        self._places = {vm: place for place, vm in enumerate(vms)}

    def first(self, vm: int, nth: int) -> int:
        """The first of the frames that the VM's nth process begins with."""
        return (2 * self._places[vm] + nth % 2) * self.shape.count


class Function:
    """One VM's network function. It may be begun again after its process has ended."""

    def __init__(
        self,
        vm: Vm,
        switch: Switch,
        folder: Path,
        logs: Logs,
        settings: Json,
        frames: Frames = USUAL,
    ) -> None:
        self.vm = vm
        self.rules = Rules()
        self.tally = Tally(vm.index)
        self.tap = make_tap()
        self.memory: Memory | None = None  # None: of its own; else not owned
        self._umem: Umem | None = None  # of the process that waits
        self._socket = -1  # of the one that has begun, until its eth0 has it
        self.why = ""  # it last ended
        self.due: float | None = None  # when to start again
        self.late = 0.0  # when it should be ready, of one that has begun
        self._frames = frames
        self._folder = folder
        self._logs = logs
        self._settings = settings
        self._eth0 = Eth0(vm, switch)
        self._kept = -1
        if settings.get("keeps"):
            self._kept = os.memfd_create("hostsim-connections", os.MFD_CLOEXEC)
        self._running: Instance | None = None
        self._spare: Instance | None = None
        self._starts = 0
        self._began = 0.0
        self._again = 0.0  # when to try for a spare once more
        self._counted: dict[str, int] = {}  # by the process before

    def prepare(self) -> None:
        """Make the switch's port and the VM's eth0 ready, once. Raises OSError."""
        self._eth0.prepare()

    # -- its processes ----------------------------------------------------------------------------

    def spawn(self) -> None:
        """Have a process in the VM that waits to take over. One that has failed stays, for `placed`
        to report; one that was killed does not. Raises HostsimError, OSError."""
        if self._spare is not None and self._spare.process.poll() != -signal.SIGKILL:
            return
        self.drop_spare()
        umem = self.memory or Umem(self._frames)
        self._umem = umem
        fds = [self.rules.fd, self.tally.fd, umem.fd, self.tap]
        if self._kept >= 0:
            fds.append(self._kept)
        message = wire.Open(
            str(self.vm.spec.nf),
            str(self._folder),
            self.rules.entries,
            self.tally.entries,
            umem.frames,
            umem.shape.size,
            umem.first(self.vm.index, self._starts),
            umem.shape.count,
        )
        with settings.handed(self._settings) as handed:
            self._spare = Instance(self.vm, self._logs, message, [*fds, handed])

    def keep_spare(self) -> None:
        """Have a process that waits, if the function runs, and not at once if the last one did not
        stay. Raises HostsimError, OSError."""
        now = time.monotonic()
        waits = self._spare is not None and self._spare.process.poll() is None
        if not self.ready or waits or now < max(self._began + SPARE, self._again):
            return
        self._again = now + RESPAWN
        self.drop_spare()
        self.spawn()

    def drop_spare(self) -> None:
        """End the process that waits, if there is one."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        self._drop_umem()

    def _drop_umem(self) -> None:
        """The process has it, and, if it began, its socket."""
        if self._umem is not None and self._umem is not self.memory:
            self._umem.close()
        self._umem = None

    def loaded(self, seconds: float = 0.0) -> bool:
        """Whether the process that waits has loaded its function, or has failed at it, which
        `placed` reports; waits so long for it."""
        return self._spare is not None and self._spare.loaded(seconds)

    def begin(self) -> None:
        """Make the waiting process the function. The next one to wait is for `keep_spare` to start,
        when the traffic is back. Raises OSError."""
        assert self._spare is not None
        assert self._umem is not None
        self._drop_socket()
        self._socket = self._umem.socket(self.vm.netns_fd)
        self._drop_umem()
        self._running, self._spare = self._spare, None
        self._began = time.monotonic()
        self.late = self._began + READY
        self._starts += 1
        self._counted = {}
        self._again = 0.0
        self._running.begin(self._socket)

    def _drop_socket(self) -> None:
        if self._socket >= 0:
            os.close(self._socket)
            self._socket = -1

    def placed(self, seconds: float = 0.0) -> bool:
        """Whether the function that has begun gets its eth0's frames; waits so long for it. Raises
        HostsimError if it did not start, or is late; OSError."""
        assert self._running is not None
        if self.ready:
            return True
        if not self._running.ready(seconds):
            if time.monotonic() < self.late:
                return False
            raise HostsimError(f"{self.vm.spec.name}: nf", f"not ready after {READY:.0f} s")
        self._eth0.give(self._socket)
        self._socket = -1
        self.due = None
        return True

    def start(self) -> None:
        """Have it run, waiting for it. Raises HostsimError, OSError."""
        self.spawn()
        self.loaded(READY)
        self.begin()
        if not self.placed(READY):
            raise HostsimError(f"{self.vm.spec.name}: nf", f"not ready after {READY:.0f} s")

    @property
    def process(self) -> Process | None:
        """The function's process, None while there is none."""
        return self._running.process if self._running is not None else None

    @property
    def begins(self) -> bool:
        """Whether it has begun, and is not ready yet."""
        return self._running is not None and self._running.state is State.BEGUN

    @property
    def ready(self) -> bool:
        """Whether it got its eth0, and can be told of neighbours."""
        return self._running is not None and self._running.state is State.READY

    @property
    def state(self) -> str:
        """`running`; `restarting`: it has ended, and is started again; `failed`: it is not."""
        if self.ready and self.process is not None and self.process.poll() is None:
            return "running"
        return "failed" if self.process is None and self.due is None else "restarting"

    def last_words(self) -> str:
        """The last line of the VM's log, if the function has written to it."""
        return self._running.last_words() if self._running is not None else ""

    # -- what it is told and asked ----------------------------------------------------------------

    def neighbour(self, vm: int, shape: Shape, fds: tuple[int, int, int, int]) -> None:
        """Give it the rings to and from another, the bell to hear and the bell to ring; they stay
        the caller's."""
        self._tell(wire.Neighbour(vm, shape), fds)

    def forget(self, vm: int) -> None:
        """Its neighbour is gone."""
        self._tell(wire.Forget(vm))

    def _tell(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        if self._running is not None and self.ready:
            self._running.tell(message, fds)

    async def hear(self, seconds: float) -> None:
        """Have `counted` and `silent` up to date: see Instance."""
        if self._running is not None and self.ready:
            await self._running.hear(seconds)

    @property
    def counted(self) -> dict[str, int]:
        """What its port and it counted, as last answered."""
        return self._running.counted if self._running is not None else self._counted

    @property
    def silent(self) -> bool:
        """Whether it has not answered in time."""
        return self._running is not None and self._running.silent

    # -- its end ----------------------------------------------------------------------------------

    def ended(self) -> None:
        """Let go of a process that has ended, or end it."""
        if self._running is not None:
            self._counted = self._running.counted
            self._running.close()
            self._running = None
        self._drop_socket()

    def close(self) -> None:
        """Twice is harmless."""
        self.ended()
        self.drop_spare()
        self.rules.close()
        self.tally.close()
        if self.tap >= 0:
            os.close(self.tap)
            self.tap = -1
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1
        self._eth0.close()
