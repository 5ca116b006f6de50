# SPDX-License-Identifier: Apache-2.0
"""The classifier without a switch: its programs are loaded, and run on frames (BPF_PROG_TEST_RUN)
at ports of a namespace that has nothing else. A frame is followed from port to port as the verdicts
say.
"""

import contextlib
import ctypes
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

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
FAR = records.DIRECT | FW << 12 | IDS
IFINDEX = 40  # in struct __sk_buff
CLONE_NEWNET = 0x40000000


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
    """The classifier, on ports without a switch."""

    def __init__(self) -> None:
        self.object = bpf.Object("classifier", flags={"flows": 1, "conns": 1})
        self.epoch = 0
        for number in NUMBERS.values():
            flags = records.VM_ALIVE | (0 if number in (FW, IDS) else records.VM_ENDPOINT)
            value = maps.pack_vm("02:02:02:02:02:02", flags)
            self.object.map("vms").set(maps.pack_u32(number), value)
        for address, number in OWNERS.items():
            self.object.map("owners").set(maps.pack_owner(address), maps.pack_u32(number))

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
        return int(check(said, program))

    def path(self, vm: int, flow: Tuple, flags: int = 0) -> list[int]:
        """The VMs that a frame goes through that enters by the port of `vm`; DROPPED last, if its
        sender has no room for another flow."""
        passed: list[int] = []
        while len(passed) < 8:
            self.run("classify", records.IFINDEX + vm, frame(flow, flags))
            found = [
                one
                for one in maps.read_flows(self.object.map("flows"))
                if (one.vm, one.tuple) == (vm, flow)
            ]
            if not found:
                return [*passed, DROPPED]
            (one,) = found
            if one.verdict.action != records.STEER:
                return passed
            vm = one.verdict.to
            passed.append(vm)
        return passed

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
        maps.sweep(self.object.program("sweep"), now, 1)
        maps.sweep(self.object.program("sweep"), now, 1)


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
        links = [(f"p{vm}", records.IFINDEX + vm, f"q{vm}") for vm in NUMBERS.values()]
        for port, index, peer in (*links, ("far", FAR, "near")):
            made = (port, "index", str(index), "type", "veth", "peer", "name", peer)
            ip("-n", name, "link", "add", *made)
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, ours)
        theirs = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, theirs)
        assert libc.setns(theirs, CLONE_NEWNET) == 0
        undo.callback(libc.setns, ours, CLONE_NEWNET)
        yield
