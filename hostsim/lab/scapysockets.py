# SPDX-License-Identifier: Apache-2.0
"""scapy's own socket classes, opened in a VM: the packets are there, the descriptors are ours.

A thread of ours is in the VM's network namespace while a class of scapy's makes its socket, and at
no other time. What comes in is put as it would be on a wire (hostsim/lab/wire.py); what goes out
goes as it is.
"""

import errno
import socket
import struct
from collections import deque
from typing import Any

from scapy.arch.linux import L2ListenSocket, L2Socket, L3PacketSocket
from scapy.config import conf
from scapy.data import ETH_P_ALL, MTU, SO_TIMESTAMPNS
from scapy.interfaces import network_name
from scapy.packet import Packet
from scapy.supersocket import L3RawSocket, L3RawSocket6, SuperSocket, tpacket_auxdata

from hostsim.lab import wire
from hostsim.lab.scapyconf import VmConf

SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR = 263, 8, 15
STATUS_VLAN_VALID, STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
NO_WORK = bytes(wire.HEADER.size)
"""The header of a frame that goes as it is."""
NOTHING = (b"", ("", 0, 0), 0.0)


class _Out:
    """The sending side of a socket that wants a header before each frame."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        return self._sock.send(NO_WORK + data) - len(NO_WORK)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


class _AtVm(L2Socket):
    """A packet socket of the VM `vm`. Opened anywhere, it reads `conf` as the VM has it."""

    vm: VmConf

    def __init__(
        self,
        iface: Any = None,
        type: int = ETH_P_ALL,
        promisc: Any = None,
        filter: Any = None,
        nofilter: int = 0,
        monitor: Any = None,
    ) -> None:
        self._more: deque[bytes] = deque()
        self._told: tuple[Any, float] = (None, 0.0)
        with self.vm.here(), self.vm.place.inside():
            super().__init__(iface, type, promisc, filter, nofilter, monitor)
        self.ins.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        if self.outs is not None:
            self.outs = _Out(self.ins)  # type: ignore[assignment]

    def _recv_raw(self, sock: socket.socket, x: int) -> tuple[bytes, Any, float | None]:
        """One frame, with its address and time."""
        if not self._more:
            try:
                data, beside, _, address = sock.recvmsg(x + len(NO_WORK), socket.CMSG_LEN(4096))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return NOTHING  # of a kind that the header cannot tell
            if len(data) < len(NO_WORK):
                return NOTHING
            header, frame = data[: len(NO_WORK)], data[len(NO_WORK) :]
            tag, when, whole = _beside(beside)
            if not whole:
                header = NO_WORK  # its checksum is over bytes that are cut off
            self._more.extend(wire.frames(header, frame, tag))
            self._told = (address, when)
        return self._more.popleft(), *self._told

    def send(self, x: Packet) -> int:
        with self.vm.here():
            return super().send(x)

    @staticmethod
    def select(sockets: list[SuperSocket], remain: float | None = None) -> list[SuperSocket]:
        socks: list[SuperSocket] = []
        for sock in sockets:
            socks += sock.send_socks.values() if isinstance(sock, L3PacketSocket) else (sock,)
        waiting = [sock for sock in socks if getattr(sock, "_more", None)]
        return waiting or SuperSocket.select(socks, remain=remain)


class _L3AtVm(_AtVm, L3PacketSocket):
    """The same at layer 3."""

    def send(self, x: Packet) -> int:
        with self.vm.here():
            iface = x.route()[0] or network_name(conf.iface)
            if iface not in self.send_socks:
                kind = conf.l3types.layer2num.get(type(x), self.type)
                self.send_socks[iface] = type(self)(
                    iface=iface, type=kind, filter=self.filter, promisc=self.promisc
                )
            return super().send(x)


def _beside(messages: list[tuple[int, int, bytes]]) -> tuple[bytes, float, bool]:
    """Of a frame: its VLAN tag, when it came (seconds), and whether it is whole."""
    tag, when, whole = b"", 0.0, True
    for level, kind, data in messages:
        if level == SOL_PACKET and kind == PACKET_AUXDATA:
            told = tpacket_auxdata.from_buffer_copy(data)
            whole = told.tp_snaplen >= told.tp_len
            if told.tp_status & STATUS_VLAN_VALID:
                known = told.tp_status & STATUS_VLAN_TPID_VALID
                tag = struct.pack("!HH", told.tp_vlan_tpid if known else 0x8100, told.tp_vlan_tci)
        elif level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(data) == 16:
            seconds, nanoseconds = struct.unpack("qq", data)
            when = seconds + nanoseconds * 1e-9
    return tag, when, whole


def bind(vm: VmConf) -> dict[str, type]:
    """The classes for one VM, by their name in `conf`; L3lo, L3lo6: for its loopback."""
    return {
        "L2socket": type("L2Socket", (_AtVm,), {"vm": vm}),
        "L2listen": type("L2ListenSocket", (_AtVm, L2ListenSocket), {"vm": vm}),
        "L3socket": type("L3PacketSocket", (_L3AtVm,), {"vm": vm}),
        "L3lo": _raw(L3RawSocket, vm),
        "L3lo6": _raw(L3RawSocket6, vm),
    }


def _raw(kind: Any, vm: VmConf) -> type:
    """One of scapy's raw IP sockets, which read and write IP alone."""

    def opened(self: Any, *words: Any, **options: Any) -> None:
        with vm.here(), vm.place.inside():
            kind.__init__(self, *words, **options)

    def send(self: Any, x: Packet) -> int:
        with vm.here():
            return int(kind.send(self, x))

    return type(kind.__name__, (kind,), {"__init__": opened, "send": send})


__all__ = ["MTU", "bind"]
