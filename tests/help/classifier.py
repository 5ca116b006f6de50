# SPDX-License-Identifier: Apache-2.0
"""The classifier without a switch: its programs are loaded, and run on frames (BPF_PROG_TEST_RUN)
at ports of a namespace that has nothing else. A frame is followed from port to port as the verdicts
say.
"""

import contextlib
import ctypes
import itertools
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from cext._native import ffi, lib

from cext import check
from cext.bpf import objects as bpf
from cext.switch import maps, records
from cext.switch.records import Tuple
from hostsim.model import RouteSpec
from hostsim.routing import policy

CLIENT, SERVER, FW, IDS, FORGER = 1, 2, 3, 4, 5
NUMBERS = {"client": CLIENT, "server": SERVER, "fw": FW, "ids": IDS, "forger": FORGER}
C, S = ip_address("198.18.0.10").packed, ip_address("198.18.0.20").packed
OWNERS = {C: CLIENT, S: SERVER}
DROPPED = 0
FIN, SYN, RST, ACK = 1, 2, 4, 16
CHAINED = (FW, IDS)
"""The VMs that have a transfer component, and a direct link to each other."""
UNSPEC, REDIRECT = -1, 7  # TC_ACT_*
IFINDEX = 40  # in struct __sk_buff
CLONE_NEWNET = 0x40000000


def far(vm: int, to: int) -> int:
    """The far end of a VM's direct link to another."""
    return records.DIRECT | vm << 12 | to


FAR = far(FW, IDS)


def tcp(sport: int, dport: int = 80) -> Tuple:
    """From the client to the server."""
    return Tuple(4, 6, C, sport, S, dport)


def udp(sport: int, dport: int = 80) -> Tuple:
    """Likewise."""
    return Tuple(4, 17, C, sport, S, dport)


def frame(flow: Tuple, flags: int, body: bytes = b"") -> bytes:
    """Ethernet, IPv4, and TCP or UDP with these contents."""
    head = struct.pack("!HH", flow.sport, flow.dport)
    if flow.proto == 6:
        head += struct.pack("!IIBBHHH", 1, 1, 5 << 4, flags, 65535, 0, 0)
    else:
        head += struct.pack("!HH", 8 + len(body), 0)
    head += body
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head), 1, 0, 64, flow.proto, 0)
    return bytes([2] * 12) + b"\x08\x00" + ip + flow.src + flow.dst + head


class Switch:
    """The classifier, on ports without a switch. direct: whether those of CHAINED send by their
    transfer component and by their direct link."""

    def __init__(self, direct: bool = False) -> None:
        self.direct = direct
        self.object = bpf.Object("classifier", flags={"flows": 1, "conns": 1})
        self.epoch = 0
        for number in NUMBERS.values():
            flags = records.VM_ALIVE | (0 if number in (FW, IDS) else records.VM_ENDPOINT)
            value = maps.pack_vm("02:02:02:02:02:02", flags)
            self.object.map("vms").set(maps.pack_u32(number), value)
        for address, number in OWNERS.items():
            self.object.map("owners").set(maps.pack_owner(address), maps.pack_u32(number))
        for one, other in itertools.permutations(CHAINED) if direct else ():
            pair, ready = maps.pack_u32(one << 12 | other), maps.pack_u32(records.PAIR_READY)
            self.object.map("pairs").set(pair, ready)

    def close(self) -> None:
        self.object.close()

    def apply(self, routes: list[RouteSpec]) -> None:
        """As `routes apply` does."""
        self.epoch += 1
        lists = policy.compile_lists(routes, (), (), NUMBERS)
        region = self.epoch % records.REGIONS
        for at, row in enumerate(lists.rows):
            key = maps.pack_u32(region * records.ROWS_MAX + at)
            self.object.map("rows").set(key, maps.pack_row(row))
        for route in routes:
            chain = tuple(NUMBERS[name] for name in route.through)
            key = maps.pack_u32(region * records.ROWS_MAX + route.index)
            self.object.map("routes").set(key, maps.pack_route(chain, True))
        value = maps.pack_policy(self.epoch, self.epoch, region, lists)
        self.object.map("policies").set(maps.pack_u32(self.epoch % records.EPOCHS), value)
        self.object.map("config").set(maps.pack_u32(0), maps.pack_config(self.epoch, records.ON))

    def run(self, program: str, ifindex: int, data: bytes) -> int:
        """What a program says of a frame at an interface."""
        context = ffi.new("char[]", struct.pack("=I", ifindex).rjust(IFINDEX + 4, b"\0"))
        fd = self.object.program(program)
        size = IFINDEX + 4
        said = lib.hs_bpf_run(fd, context, size, data, len(data), ffi.NULL, ffi.NULL)
        return int(said if said == UNSPEC else check(said, program))

    def path(self, vm: int, flow: Tuple, flags: int = 0) -> list[int]:
        """The VMs that a frame goes through that enters by the port of `vm`; DROPPED last, if its
        sender has no room for another flow."""
        passed: list[int] = []
        data = frame(flow, flags)
        while len(passed) < 8:
            if self.direct and vm in CHAINED and self.sent_beside(vm, data):
                to = maps.unpack_verdict(self.known(vm, flow).rule.verdict).to
                if not self.taken(vm, to, data):
                    return [*passed, DROPPED]
            else:
                self.run("classify", records.IFINDEX + vm, data)
                known = self.known(vm, flow)
                if known is None or not known.packets:
                    return [*passed, DROPPED]
                verdict = maps.unpack_verdict(known.verdict)
                if verdict.action != records.STEER:
                    return passed
                to = verdict.to
            vm = to
            passed.append(vm)
        return passed

    def known(self, vm: int, flow: Tuple) -> Any:
        """The entry of a flow at a VM (struct hs_flow), or None."""
        raw = self.object.map("flows").get(maps.pack_key(vm, flow))
        return ffi.from_buffer("struct hs_flow *", raw) if raw else None

    def rules(self) -> dict[tuple[int, Tuple], records.Verdict]:
        """The routing rules that the VMs hold, of whatever epoch; by VM and flow."""
        held = maps.read_rules(self.object.map("flows"))
        return {(one.vm, one.tuple): one.verdict for one in held if one.verdict.epoch}

    def sent_beside(self, vm: int, data: bytes) -> bool:
        """Whether the transfer component of a VM sends a frame by the direct link."""
        return self.run("transfer_out", records.ETH0 + vm, data) == REDIRECT

    def taken(self, vm: int, to: int, data: bytes) -> bool:
        """Whether a frame that a VM puts on its direct link comes into the other VM."""
        return self.run("transfer_in", far(vm, to), data) == REDIRECT

    def flood(self, vm: int, conns: int) -> None:
        """As if a VM had so many more connections, or fewer; nobody sweeps those."""
        shares = self.object.map("shares")
        for number in (0, vm):
            raw = ffi.new("struct hs_entries *")
            ffi.memmove(raw, shares.get(maps.pack_u32(number)) or b"", ffi.sizeof(raw[0]))
            raw.conns += conns
            shares.set(maps.pack_u32(number), bytes(ffi.buffer(raw)))

    def forget(self) -> None:
        """Everything has been silent for longer than anything is remembered."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + (1 << 50)
        maps.sweep(self.object.program, self.object.map, now, 1)
        maps.sweep(self.object.program, self.object.map, now, 1)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def in_namespace() -> Iterator[None]:
    """This thread is in a namespace that has the ports."""
    name = f"hs-classifier-{os.getpid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as undo:
        ip("netns", "add", name)
        undo.callback(ip, "netns", "del", name)
        for vm in NUMBERS.values():
            port = (f"p{vm}", "index", str(records.IFINDEX + vm))
            eth0 = ("name", f"q{vm}", "index", str(records.ETH0 + vm))
            ip("-n", name, "link", "add", *port, "type", "veth", "peer", *eth0)
        one, other = (("index", str(far(*pair))) for pair in itertools.permutations(CHAINED))
        ip("-n", name, "link", "add", "f1", *one, "type", "veth", "peer", "name", "f2", *other)
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, ours)
        theirs = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, theirs)
        assert libc.setns(theirs, CLONE_NEWNET) == 0
        undo.callback(libc.setns, ours, CLONE_NEWNET)
        yield
