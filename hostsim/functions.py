"""Network functions, the daemon's side: starts them in their VMs, joins neighbours by rings, gives
them their routing rules, and starts again what has died.

Each VM with `nf` gets: an XDP program on its eth0 that hands every frame to the NF's AF_XDP socket
(and drops while there is none); a port on the switch that floods nothing to it, learns nothing from
it, and finishes checksums and segments before its frames leave the kernel; the runner process
(hostsim/nf.py), told everything over a socket of its own; and for each NF next to it in a route a
channel each way, in memory that only these two have.

Rules. The classifier decides a flow on the switch; `sync` reads its decisions and gives the rule to
the sending VM's table: this flow, at this VM, goes to that neighbour, in this epoch. A new epoch
makes all rules stale with one store (cext/flow.h).

A function that ends by itself is started again, at once and then after pauses that double (BACKOFF,
RESTARTS); its
neighbours forget the rings to it before it gets new ones, and meanwhile their packets go to the
switch.
"""

import array
import contextlib
import json
import logging
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cext import bpf, dataplane
from cext.channel import Shape, make_channel
from cext.port import Rules, offload_off
from hostsim.errors import HostsimError
from hostsim.model import HostSpec, Json
from hostsim.routes import Dataplane
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.links import Rtnl
from netns.process import Process

log = logging.getLogger("hostsim.functions")

READY = 20.0  # seconds for a function to open its port
BACKOFF = 0.1  # seconds before the second restart in a row; doubles. The first is at once
RESTARTS = 8  # in a row, each within STEADY of its start
STEADY = 10.0  # seconds after which a function counts as running
XDP_FLAGS_DRV_MODE = 4
CHANNEL = Shape("isolated", ring=1024, data=1 << 19, max_len=1600)


class Function:
    """One VM's network function. `start` may be called again after its process has ended."""

    def __init__(self, vm: Vm, switch: Switch, folder: Path, log_path: Path) -> None:
        self.vm = vm
        self.rules = Rules()
        self.process: Process | None = None
        self.restarts = 0
        self.began = 0.0
        self.due: float | None = None  # when to start again
        self._switch = switch
        self._folder = folder
        self._log = log_path
        self._spare: tuple[Process, socket.socket] | None = None
        self._capture: bpf.Object | None = None
        self._control: socket.socket | None = None

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
                bcast_flood=0,
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
        """Have a process in the VM that only waits to be told what to be: starting an interpreter
        takes longer than traffic may stand still. Raises HostsimError, OSError."""
        if self._spare is not None and self._spare[0].poll() is None:
            return
        self._drop_spare()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = self.vm.popen(
                [sys.executable, "-m", "hostsim.nf"],
                cwd="/",
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
            )
            self._spare = (process, ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(output)

    def start(self) -> None:
        """Make the waiting process the function, put its socket into place, and have another one
        wait. Raises HostsimError, OSError."""
        self.spawn()
        assert self._spare is not None
        self.process, self._control = self._spare
        self._spare = None
        self.began = time.monotonic()
        self.due = None
        self._send(
            {
                "do": "open",
                "nf": self.vm.spec.nf,
                "folder": str(self._folder),
                "on_full": "drop",
                "rules": self.rules.entries,
            },
            [self.rules.fd],
        )
        self._socket_into_place()
        self.spawn()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            process, control = self._spare
            control.close()
            process.close()
            self._spare = None

    def _socket_into_place(self) -> None:
        assert self._control is not None
        if not select.select([self._control], [], [], READY)[0]:
            raise HostsimError(f"{self.vm.spec.name}: nf", f"not ready after {READY:.0f} s")
        data, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(4))
        handles = array.array("i")
        for _, kind, content in ancillary:
            if kind == socket.SCM_RIGHTS:
                handles.frombytes(content[: len(content) // 4 * 4])
        if not data or len(handles) != 1:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise HostsimError(
                f"{self.vm.spec.name}: nf",
                f"{self.vm.spec.nf!r} did not start: {lines[-1] if lines else 'no reason given'}",
            )
        assert self._capture is not None
        try:
            self._capture.map("sockets").set(struct.pack("=I", 0), struct.pack("=i", handles[0]))
        finally:
            os.close(handles[0])

    def _send(self, message: Json, fds: Sequence[int] = ()) -> None:
        assert self._control is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # its end is seen elsewhere
            self._control.sendmsg([json.dumps(message).encode()], rights)

    def neighbour(self, vm: int, out: int, into: int, bell_in: int, bell_out: int) -> None:
        """Give it the rings to and from another; the descriptors stay the caller's."""
        self._send(
            {"do": "neighbour", "vm": vm, "shape": asdict(CHANNEL)}, [out, into, bell_in, bell_out]
        )

    def forget(self, vm: int) -> None:
        """Its neighbour is gone."""
        self._send({"do": "forget", "vm": vm})

    def counters(self) -> dict[str, int]:
        """The port's counters; empty where it does not answer within a second."""
        if self._control is None or self.process is None:
            return {}
        self._send({"do": "counters"})
        if not select.select([self._control], [], [], 1.0)[0]:
            return {}
        data = self._control.recv(65536)
        found: dict[str, int] = json.loads(data)["counters"] if data else {}
        return found

    def ended(self) -> None:
        """Let go of a process that has ended, or end it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.process is not None:
            self.process.close()
            self.process = None

    def close(self) -> None:
        """Twice is harmless."""
        self.ended()
        self._drop_spare()
        self.rules.close()
        if self._capture is not None:
            self._capture.close()
            self._capture = None


class Functions:
    """All network functions of a host. `sync` is to be called some ten times a second."""

    def __init__(
        self, spec: HostSpec, switch: Switch, plane: Dataplane, vms: Mapping[str, Vm], logs: Path
    ) -> None:
        folder = spec.path.parent
        self._plane = plane
        self._by_number = {
            vm.index: Function(vm, switch, folder, logs / f"{vm.spec.name}.log")
            for vm in vms.values()
            if vm.spec.nf is not None
        }
        numbers = {name: vm.index for name, vm in vms.items()}
        self._pairs = {
            frozenset((numbers[a], numbers[b]))
            for route in spec.routes
            if route.bypass in ("auto", "ring")
            for a, b in zip(route.through, route.through[1:], strict=False)
            if numbers[a] in self._by_number and numbers[b] in self._by_number
        }
        self._epoch = 0
        plane.on_epoch = self.new_epoch

    def prepare(self) -> None:
        """Make ports and VMs ready. Raises OSError."""
        for function in self._by_number.values():
            function.prepare()

    def start(self) -> None:
        """Start all of them and join them; may run in a thread, while others use the switch.
        Raises HostsimError, OSError."""
        for function in self._by_number.values():
            function.spawn()
        for function in self._by_number.values():
            function.start()
        for pair in self._pairs:
            self._join(*pair)

    def _join(self, a: int, b: int) -> None:
        """New rings between two of them, and nobody else has them."""
        with contextlib.ExitStack() as closing:
            fds = [make_channel(CHANNEL), make_channel(CHANNEL)]
            for fd in fds:
                closing.callback(os.close, fd)
            bells = [os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2)]
            for fd in (*bells[0], *bells[1]):
                closing.callback(os.close, fd)
            self._by_number[a].neighbour(b, fds[0], fds[1], bells[0][0], bells[1][1])
            self._by_number[b].neighbour(a, fds[1], fds[0], bells[1][0], bells[0][1])

    def new_epoch(self, epoch: int) -> None:
        """Every rule of another epoch is stale when this returns."""
        if epoch == self._epoch:
            return
        for function in self._by_number.values():
            function.rules.set_epoch(epoch)
        self._plane.rings.clear()
        self._epoch = epoch

    def sync(self) -> None:
        """Restart what has died, and bring the rules in line with the switch's decisions. Raises
        OSError."""
        for function in self._by_number.values():
            self._revive(function)
        self.new_epoch(self._plane.epoch)
        rings = set()
        for vm, flow, to in self._plane.ring_hops():
            if self._joined(vm, to) and self._by_number[vm].rules.put(
                dataplane.pack_tuple(flow), to, self._epoch
            ):
                rings.add((vm, flow))
        self._plane.rings = rings

    def withdraw(self) -> None:
        """Every rule is stale at once, until the next `sync`: everything goes to the switch."""
        self.new_epoch(0)

    def _joined(self, a: int, b: int) -> bool:
        """Whether two VMs have rings; they get them when routes first make them neighbours."""
        ends = [self._by_number.get(number) for number in (a, b)]
        if not all(end is not None and end.process is not None for end in ends):
            return False
        if frozenset((a, b)) not in self._pairs:
            self._pairs.add(frozenset((a, b)))
            self._join(a, b)
        return True

    def _revive(self, function: Function) -> None:
        now = time.monotonic()
        process = function.process
        if process is not None and process.poll() is not None:
            self._died(function, now)
        if function.due is None or now < function.due:
            return
        try:
            function.start()
        except (HostsimError, OSError) as error:
            log.error("%s: cannot be started again: %s", function.vm.spec.name, error)
            self._died(function, now)
            return
        for pair in self._pairs:
            if function.vm.index in pair:
                (other,) = pair - {function.vm.index}
                if self._by_number[other].process is not None:
                    self._join(function.vm.index, other)
        log.info("%s: its network function runs again", function.vm.spec.name)

    def _died(self, function: Function, now: float) -> None:
        name, number = function.vm.spec.name, function.vm.index
        status = function.process.poll() if function.process is not None else None
        function.ended()
        for pair in self._pairs:
            if number in pair:
                (other,) = pair - {number}
                self._by_number[other].forget(number)
        if now - function.began > STEADY:
            function.restarts = 0
        if function.restarts == RESTARTS or not function.vm.alive:
            log.error("%s: its network function is given up (status %s)", name, status)
            function.due = None
            return
        function.due = now + (BACKOFF * 2**function.restarts if function.restarts else 0)
        function.restarts += 1
        log.warning("%s: its network function ended with status %s", name, status)

    def alive(self) -> list[int]:
        """The pidfds of the functions that run; they stay theirs."""
        running = [one.process for one in self._by_number.values() if one.process is not None]
        return [process.fileno() for process in running if process.poll() is None]

    def dead(self) -> list[int]:
        """The pidfds of those that have ended, which the next `sync` closes."""
        ended = [one.process for one in self._by_number.values() if one.process is not None]
        return [process.fileno() for process in ended if process.poll() is not None]

    def counters(self) -> dict[str, dict[str, int]]:
        """By VM name, what its port counted."""
        return {one.vm.spec.name: one.counters() for one in self._by_number.values()}

    def process(self, name: str) -> Process | None:
        """The process of a VM's network function, None while there is none."""
        (found,) = [one for one in self._by_number.values() if one.vm.spec.name == name]
        return found.process

    def close(self) -> None:
        """End all of them. Twice is harmless."""
        self._plane.on_epoch = lambda epoch: None
        for function in self._by_number.values():
            function.close()
