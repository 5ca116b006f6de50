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

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cext.port.port import make_socket
from cext.port.rules import Rules
from cext.port.tally import Tally
from cext.ring.channel import Shape, make_region
from cext.sight.tap import make_tap
from hostsim.errors import HostsimError, reason
from hostsim.logs import Logs
from hostsim.model import Json
from hostsim.nf import settings, wire
from hostsim.nf.eth0 import Eth0
from hostsim.nf.frames import USUAL, Frames
from hostsim.nf.instance import Instance, State
from hostsim.nf.runner import RING
from hostsim.nf.shipped import SHIPPED
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.process import Process

log = logging.getLogger("hostsim.functions")

READY = 20.0  # seconds for a function to load, and for it to open its port
SPARE = 0.05  # seconds from a start until the next process to wait is started: traffic comes first
RESPAWN = 5.0  # seconds between attempts at one that does not stay
LEAVE = 0.5  # seconds for one to end by itself


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


class Guise:
    """What a function is, or is to become: its name, where it is found, its settings, and a memfd
    for what outlives its processes, if it keeps something. before: the guise that it had, whose
    memfd serves if both keep the same."""

    def __init__(self, nf: str, folder: Path, given: Json, before: "Guise | None" = None) -> None:
        self.nf = nf
        self.folder = folder
        self.settings = given
        self.kept = -1
        keeps = given.get("keeps")
        if keeps and before is not None and before.settings.get("keeps") == keeps:
            self.kept = os.dup(before.kept)
        elif keeps:
            self.kept = os.memfd_create("hostsim-connections", os.MFD_CLOEXEC)

    @contextlib.contextmanager
    def handed(self) -> Iterator[list[int]]:
        """The descriptors that a process gets of it. Raises OSError."""
        with settings.handed(self.settings) as document:
            yield [self.kept, document] if self.kept >= 0 else [document]

    def close(self) -> None:
        """Twice is harmless."""
        if self.kept >= 0:
            os.close(self.kept)
            self.kept = -1


class Spare(NamedTuple):
    """A process that waits to take over, and its umem. first: of its frames there, by which a
    place in shared memory is known."""

    instance: Instance
    umem: Umem
    first: int


class Becoming(NamedTuple):
    """What a function is to become: its guise, and a process that waits in it. It is the
    function's with `Function.become`."""

    guise: Guise
    spare: Spare


class Function:
    """One VM's network function. It may be begun again after its process has ended, and become
    another one."""

    def __init__(
        self,
        vm: Vm,
        switch: Switch,
        folder: Path,
        logs: Logs,
        given: Json,
        frames: Frames = USUAL,
    ) -> None:
        self.vm = vm
        self.rules = Rules()
        self.tally = Tally(vm.index)
        self.tap = make_tap()
        self.memory: Memory | None = None  # None: of its own; else not owned
        self._socket = -1  # of the one that has begun, until its eth0 has it
        self.why = ""  # it last ended
        self.due: float | None = None  # when to start again
        self.late = 0.0  # when it should be ready, of one that has begun
        self.leaves: float | None = None  # when a process that is to end by itself is killed
        self.frames = frames
        self._logs = logs
        self._guise = Guise(str(vm.spec.nf), folder, given)
        self._eth0 = Eth0(vm, switch)
        self._running: Instance | None = None
        self._spare: Spare | None = None
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
        if self._spare is not None and self._spare.instance.process.poll() != -signal.SIGKILL:
            return
        self.drop_spare()
        self._spare = self._waits(self._guise)

    def _waits(self, guise: Guise) -> Spare:
        """A new process that waits to be the function in this guise. Raises HostsimError,
        OSError."""
        umem = self.memory or Umem(self.frames)
        first = umem.first(self.vm.index, self._starts)
        message = wire.Open(
            guise.nf,
            str(guise.folder),
            self.rules.entries,
            self.tally.entries,
            umem.frames,
            umem.shape.size,
            first,
            umem.shape.count,
        )
        try:
            with guise.handed() as handed:
                fds = [self.rules.fd, self.tally.fd, umem.fd, self.tap, *handed]
                return Spare(Instance(self.vm, self._logs, message, fds), umem, first)
        except BaseException:
            self._drop_umem(umem)
            raise

    def keep_spare(self) -> None:
        """Have a process that waits, if the function runs, and not at once if the last one did not
        stay. Raises HostsimError, OSError."""
        now = time.monotonic()
        waits = self._spare is not None and self._spare.instance.process.poll() is None
        if not self.ready or waits or now < max(self._began + SPARE, self._again):
            return
        self._again = now + RESPAWN
        self.drop_spare()
        self.spawn()

    def drop_spare(self) -> None:
        """End the process that waits, if there is one."""
        if self._spare is not None:
            self._drop(self._spare)
            self._spare = None

    def _drop(self, spare: Spare) -> None:
        spare.instance.close()
        self._drop_umem(spare.umem)

    def _drop_umem(self, umem: Umem) -> None:
        """The process has it, and, if it began, its socket."""
        if umem is not self.memory:
            umem.close()

    def loaded(self, seconds: float = 0.0) -> bool:
        """Whether the process that waits has loaded its function, or has failed at it, which
        `placed` reports; waits so long for it."""
        return self._spare is not None and self._spare.instance.loaded(seconds)

    def refuse_unfit(self) -> None:
        """Raises HostsimError if the process that waits has failed to load its function."""
        assert self._spare is not None
        self._spare.instance.refuse_unfit()

    def begin(self) -> None:
        """Make the waiting process the function. The next one to wait is for `keep_spare` to start,
        when the traffic is back. Raises OSError."""
        assert self._spare is not None
        self._drop_socket()
        self._socket = self._spare.umem.socket(self.vm.netns_fd)
        self._drop_umem(self._spare.umem)
        self._running, self._spare = self._spare.instance, None
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

    # -- another guise ----------------------------------------------------------------------------

    def becoming(self, nf: str, folder: Path, given: Json) -> Becoming:
        """What makes it another function, or one with other settings; in any thread. Raises
        HostsimError, OSError."""
        guise = Guise(nf, folder, given, self._guise)
        try:
            return Becoming(guise, self._waits(guise))
        except BaseException:
            guise.close()
            raise

    def give_up(self, new: Becoming) -> None:
        """It becomes nothing else."""
        self._drop(new.spare)
        new.guise.close()

    def become(self, new: Becoming) -> list[Callable[[], None]]:
        """It is that from now on. Shipped functions turn into each other as they run, and lose
        nothing; from or to another one, the process ends, and the one that waits takes over. What
        is left to be done by a thread."""
        before, self._guise = self._guise, new.guise
        left = [partial(self._drop, self._spare)] if self._spare is not None else []
        self._spare = None
        if new.spare.first == new.spare.umem.first(self.vm.index, self._starts):
            self._spare = new.spare
        else:  # one has taken over meanwhile, and has its frames
            left.append(partial(self._drop, new.spare))
        if self._running is not None and self.ready:
            if {before.nf, new.guise.nf} <= SHIPPED.keys():
                try:
                    with new.guise.handed() as handed:
                        self._running.change(new.guise.nf, handed)
                except OSError as error:  # what waits takes over
                    log.error("%s: %s: its process ends", self.vm.spec.name, reason(error))
                    self._running.process.kill()
            else:
                self.leave()
        elif self._running is not None:  # it has begun as what it was
            self._running.process.kill()
        before.close()
        return [*left]

    def leave(self) -> None:
        """Have its process end by itself; it is killed if it does not."""
        if self._running is not None:
            self.leaves = time.monotonic() + LEAVE
            self._running.end()

    def left(self, seconds: float) -> bool:
        """Whether a process that was told to leave has ended by itself, with all that it had in
        hand sent; waits so long for it. There is none afterwards."""
        self.drop_spare()
        if self._running is None:
            return False
        with contextlib.suppress(TimeoutError):
            return self._running.process.wait(seconds) == 0
        self._running.process.kill()
        self._running.process.wait()
        return False

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
        self.leaves = None
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
        self._guise.close()
        self._eth0.close()
