# SPDX-License-Identifier: Apache-2.0
"""An endpoint that sends frames as they are, and another that is given every packet its kernel
accepts."""

import contextlib
import itertools
import socket
import struct
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cext.ns.netns import socket_at
from cext.switch.records import Tuple
from help import frames as made_of
from help.frames import GRE, HAS_PORTS, ICMP, ICMPV6, IGMP, SCTP, TCP, UDP, UDPLITE, Ends
from help.net import Net
from help.waiting import until

GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
PROTOCOLS = (UDP, TCP, SCTP, UDPLITE, GRE, ICMP, ICMPV6, IGMP, 253)
FENCE = 253
"""The protocol (RFC 3692) of a packet that tells that all before it has gone through."""
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
SOL_PACKET, AUXDATA = 263, 8  # PACKET_AUXDATA
AGAIN = 50
"""Looks at what has come, after which another fence is sent."""


class Given(NamedTuple):
    """A packet that the receiver's kernel accepted: its flow, TCP flags, what it carries, and its
    TTL or hop limit."""

    flow: Tuple
    flags: int
    body: bytes
    hops: int


def of_neighbours(one: Given) -> bool:
    """Whether it speaks of neighbours or routers as RFC 4861 has it: who is on the link says that,
    and it is bridged plainly, always."""
    return _icmp6(one, range(133, 138)) and one.hops == 255


def of_listeners(one: Given) -> bool:
    """Whether it speaks of listeners as RFC 2710 and RFC 3810 have it; bridged plainly, too."""
    return _icmp6(one, (130, 131, 132, 143)) and one.hops == 1 and one.flow.dst[0] == 0xFF


def _icmp6(one: Given, types: Container[int]) -> bool:
    is_icmp6 = (one.flow.family, one.flow.proto) == (6, ICMPV6)
    return is_icmp6 and bool(one.body) and one.body[0] in types


@dataclass
class Receiver:
    """Sockets of an endpoint that are given every packet its kernel accepts."""

    sockets: dict[tuple[int, int], socket.socket]

    def all(self) -> Iterator[Given]:
        """Every packet that waits."""
        for (family, proto), one in self.sockets.items():
            while True:
                try:
                    data, control, _, sender = one.recvmsg(65536, 256)
                except BlockingIOError:
                    break
                if family == 4:
                    header = (data[0] & 15) * 4
                    of = told(4, proto, data[12:16], data[16:20], data[header:])
                    yield Given(*of, data[8])
                else:
                    more = {kind: raw for _, kind, raw in control}
                    src = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
                    of = told(6, proto, src, more[socket.IPV6_PKTINFO][:16], data)
                    yield Given(*of, struct.unpack("@i", more[socket.IPV6_HOPLIMIT])[0])


def told(family: int, proto: int, src: bytes, dst: bytes, body: bytes) -> tuple[Tuple, int, bytes]:
    sport = dport = flags = 0
    if len(body) < 8:
        pass  # nothing that has ports
    elif proto in HAS_PORTS:
        sport, dport = struct.unpack_from("!HH", body)
        flags = body[13] if proto == TCP and len(body) > 13 else 0
    elif echo(proto, body):
        sport = dport = struct.unpack_from("!H", body, 4)[0]
    return Tuple(family, proto, src, sport, dst, dport), flags, body


def echo(proto: int, body: bytes) -> bool:
    return body[0] in {ICMP: (0, 8), ICMPV6: (128, 129)}.get(proto, ())


def listen(net: Net, name: str) -> Receiver:
    """Raw sockets for every protocol that the frames are of, in a VM or endpoint."""
    vm, sockets = net.vms[name], {}
    index = int(net.ip(name, "-o", "link", "show", "eth0").partition(":")[0])
    for family, proto in itertools.product((4, 6), PROTOCOLS):
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        one = sockets[family, proto] = socket_at(vm.netns_fd, kind, socket.SOCK_RAW, proto)
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        if family == 6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    joined = socket.inet_aton(GROUP4) + socket.inet_aton("0.0.0.0") + struct.pack("@i", index)
    sockets[4, UDP].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    joined = socket.inet_pton(socket.AF_INET6, GROUP6) + struct.pack("@I", index)
    sockets[6, UDP].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
    return Receiver(sockets)


def vlan(auxdata: bytes) -> int:
    """The VLAN that the kernel took out of a frame, 0: none (packet(7), struct tpacket_auxdata)."""
    status, _, _, _, _, tci, _ = struct.unpack("=IIIHHHH", auxdata[:20])
    return tci & 0xFFF if status & 0x10 else 0  # TP_STATUS_VLAN_VALID


class Ear:
    """A socket of an endpoint that is given every frame that comes to it, tags before it or not."""

    def __init__(self, net: Net, name: str) -> None:
        self.socket = socket_at(
            net.vms[name].netns_fd, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
        )
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self.socket.setsockopt(SOL_PACKET, AUXDATA, 1)
        self.socket.bind(("eth0", ETH_P_ALL))
        self.socket.setblocking(False)

    def all(self, tagged: bool = True) -> list[bytes]:
        """Every frame that waits, without its outermost tag, which the kernel takes out. tagged:
        those too whose outermost tag names a VLAN."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, control, _, _ = self.socket.recvmsg(65536, 256)
                if tagged or not any(vlan(value) for _, kind, value in control if kind == AUXDATA):
                    found.append(frame)
        return found

    def close(self) -> None:
        self.socket.close()


def swallows(net: Net, name: str) -> None:
    """Make a VM of a chain one that nothing comes out of."""
    net.vms[name].sysctl({"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"})


class Wire:
    """From the client of a Net, or another with its addresses, to the server."""

    def __init__(self, net: Net, sender: str = "client") -> None:
        self.net = net
        self.receiver = listen(net, "server")
        self.sender = socket_at(net.vms[sender].netns_fd, socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind(("eth0", 0))
        server, client = (
            bytes.fromhex(net.vms[name].mac.replace(":", "")) for name in ("server", sender)
        )
        ends = made_of.ENDS
        self.ends = Ends(server, client, ends.src4, ends.dst4, ends.src6, ends.dst6)
        self._fences = itertools.count()

    def send(
        self, several: list[bytes], meanwhile: Callable[[], object] = lambda: None
    ) -> list[Given]:
        """Send frames; what the receiver was given, once all of them have gone through, those
        before them too. meanwhile: is called while that is waited for."""
        fence = b"fence %d" % next(self._fences)
        packet = made_of.ipv4(self.ends.src4, self.ends.dst4[0], FENCE, fence)
        last = self.ends.mac + self.ends.here + b"\x08\x00" + packet
        for frame in several:
            self.sender.send(frame)
        found: list[Given] = []
        waited = itertools.count()

        def through() -> bool:
            if next(waited) % AGAIN == 0:  # a chain may lose one, before it knows its neighbours
                self.sender.send(last)
            meanwhile()
            found.extend(self.receiver.all())
            return any(one.body == fence for one in found)

        until(through, 30)
        return [one for one in found if one.flow.proto != FENCE]

    def close(self) -> None:
        self.sender.close()
        for one in self.receiver.sockets.values():
            one.close()
