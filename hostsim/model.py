# SPDX-License-Identifier: Apache-2.0
"""The host as its file describes it: plain frozen data, checked by `hostfile`, read by all.

Units: bytes, seconds, CPUs. Addresses are `ipaddress` interfaces (with prefix length). Tuples
keep the order of the file. Pure; no I/O.
"""

from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Any, Literal

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

Background = Literal["run", "throttle", "freeze"]
BypassMode = Literal["auto", "veth", "ring", "never"]
Files = Literal["private", "shared"]
Direction = Literal["both", "in", "out"]
DeviceMode = Literal["direct", "mirror"]
OnFailure = Literal["drop", "skip"]
Held = Literal["lift", "carry-modifiers"]
Restart = Literal["no", "on-failure"]
Seat = bool | Literal["0.7", "0.9"]
OnFull = Literal["drop", "wait"]
Users = Literal["own", "machine"]
RingMode = Literal["isolated", "shared"]

RESERVED_NAMES = frozenset({"switch", "kmc", "br0", "lo", "eth0", "all", "default"})
"""Names a VM or endpoint cannot have: they would collide inside a namespace of the host's own."""

OWN_DIRECTORIES = ("/run", "/dev", "/proc", "/sys")
"""What each VM has of its own, whatever its files: not shown from the machine, not to be shared."""

NAME_MAX = 15
"""A VM's name is also its port's name on the switch: IFNAMSIZ - 1."""

BESIDE = 14 + 4
"""Bytes of a frame beside its packet: Ethernet's header, and a VLAN tag."""
MTU = 1500
"""Bytes of the longest packet of a VM's eth0, unless its `mtu` says otherwise."""

LOG_SIZE = 8 << 20
"""Bytes of a VM's log, unless its `log_size` says otherwise."""


@dataclass(frozen=True)
class OsSpec:
    """`[vm.os]`: this VM is an operating system of the multi-OS device.

    background: what it may do while another OS is foreground: run as always, run when nobody else
    wants the CPU, or nothing (frozen). on_foreground, on_background: shell commands that its agent
    starts at each change, in the OS; nobody waits for them. restart: whether an OS whose process 1
    was killed, or ended with a status other than 0, is started again. uinput: whether its programs
    may make input devices, which are its own. seat: whether its compositors find a seat if the
    host has a screen; "0.7" (as true) and "0.9" say which libseat they use.
    """

    background: Background = "run"
    on_foreground: str | None = None
    on_background: str | None = None
    restart: Restart = "no"
    uinput: bool = False
    seat: Seat = True


@dataclass(frozen=True)
class RootSpec:
    """`root`: files of the VM's own. path: absolute, or with `image` set an image's name.

    keep: the directory that keeps what the VM changes; None: its memory does. boot: whether the
    root's own init is process 1. users: whether the VM's user ids are its own, or the machine's.
    containers: whether its programs may make user namespaces; only if its ids are its own.
    """

    path: str
    image: bool = False
    keep: str | None = None
    boot: bool = False
    users: Users = "own"
    containers: bool = False


@dataclass(frozen=True)
class MatchSpec:
    """What a route, filter or mirror matches; None or empty means: anything. Ports are inclusive
    ranges. What only a packet has (tcp_flags, dscp) is that of a connection's first packet.

    origins: names of the VMs and endpoints it comes in from. tcp_flags: the bits looked at, and
    those of them that must be set. vlan: None means untagged frames only. ethertype: frames of
    that type. The names are lower case, and may start with `*.`; a flow is matched by them once
    its contents have told a name.
    """

    src: tuple[Network, ...] = ()
    dst: tuple[Network, ...] = ()
    proto: int | None = None  # IANA protocol number
    sport: tuple[tuple[int, int], ...] = ()
    dport: tuple[tuple[int, int], ...] = ()
    origins: tuple[str, ...] = ()
    tcp_flags: tuple[int, int] | None = None
    dscp: int | None = None
    vlan: int | None = None
    ethertype: int | None = None
    sni: tuple[str, ...] = ()
    http_host: tuple[str, ...] = ()
    dns_name: tuple[str, ...] = ()


@dataclass(frozen=True)
class FirewallRule:
    """One `[[vm.rule]]`: what becomes of connections whose first packet matches."""

    match: MatchSpec
    accept: bool


@dataclass(frozen=True)
class FirewallSpec:
    """nf = "firewall": the first rule that matches decides, else the default."""

    rules: tuple[FirewallRule, ...]
    default: bool  # accept


@dataclass(frozen=True)
class NatSpec:
    """nf = "nat": the ports of the VM's address that it gives to connections, inclusive."""

    ports: tuple[int, int]


@dataclass(frozen=True)
class SourceSpec:
    """nf = "source": a flow (TCP or UDP), frames of `size` bytes without the checksum sequence,
    packets a second (0: as many as go), and how many (0: without end)."""

    src: Address
    dst: Address
    proto: int
    sport: int
    dport: int
    size: int
    rate: int
    count: int


@dataclass(frozen=True)
class WaySpec:
    """One of a VM's own `routes`, and its `gateway`: where packets to `to` go. via: the router;
    None: they are on the link. mtu: bytes of the longest packet that way; None: as the link's."""

    to: Network
    via: Address | None = None
    mtu: int | None = None


@dataclass(frozen=True)
class VmSpec:
    """A VM (`[[vm]]`) or, with `endpoint` set, a device on the network outside (`[[endpoint]]`)."""

    name: str
    endpoint: bool = False
    addresses: tuple[Interface, ...] = ()
    memory: int | None = None  # bytes
    cpus: float | None = None  # CPUs' worth of time
    pids: int | None = None
    nf: str | None = None
    run: str | None = None
    os: OsSpec | None = None
    rate: int | None = None  # bit/s that the switch sends to it at most
    files: Files = "private"
    share: tuple[tuple[str, bool], ...] = ()  # directories of the machine; whether read-only
    root: RootSpec | None = None  # files of its own, instead of the machine's
    settings: FirewallSpec | NatSpec | SourceSpec | None = None  # of a shipped function
    mac: str | None = None  # of eth0; None: one that no other machine has
    log_size: int = LOG_SIZE  # bytes of what its program and its hooks write that are kept
    mtu: int = MTU  # of eth0 and its port, bytes
    ways: tuple[WaySpec, ...] = ()  # `gateway` and `routes`
    restart: Restart = "no"
    offload: bool = True  # whether checksums and segments may be left unfinished for it, and by it
    router: bool = False  # whether it may advertise itself as an IPv6 router

    @property
    def restarts(self) -> bool:
        """Whether it is started again when its process 1 is killed or fails."""
        return "on-failure" in (self.restart, self.os.restart if self.os else "no")

    @property
    def boots(self) -> bool:
        """Whether its process 1 is its root's own init."""
        return self.root is not None and self.root.boot

    @property
    def is_system(self) -> bool:
        """Whether it is an operating system: one of the KMC's, or one that boots."""
        return self.os is not None or self.boots


@dataclass(frozen=True)
class RouteSpec:
    """One `[[route]]`. `index` is its place in the file, from 0; the first match wins.

    on_failure: what happens to its flows when a VM of the chain is gone. on_full: what happens to
    a packet for which the next function's ring has no room. ring: whether the packet functions of
    the chain share their packet memory, or each pair has a ring of its own that is copied through.
    """

    index: int
    match: MatchSpec
    through: tuple[str, ...]
    bypass: BypassMode = "auto"
    on_failure: OnFailure = "drop"
    on_full: OnFull = "wait"
    ring: RingMode = "isolated"


@dataclass(frozen=True)
class FilterSpec:
    """One `[[filter]]`: connections that match are dropped at the switch."""

    index: int
    match: MatchSpec


@dataclass(frozen=True)
class MirrorSpec:
    """One `[[mirror]]`: a copy of each packet of the connections that match goes to a VM or
    endpoint, from every port of the switch it comes in by."""

    index: int
    match: MatchSpec
    to: str


@dataclass(frozen=True)
class LinkSpec:
    """One `[[link]]`: what befalls the packets of a VM or endpoint. direction: `in` is what the
    switch sends to it. delay, jitter: ns. loss, duplicate, reorder, corrupt: shares of packets,
    0 to 1. rate: bit/s. The same seed befalls the same packets, by their number."""

    of: str
    direction: Direction = "both"
    delay: int = 0
    jitter: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: int | None = None
    seed: int = 0
    down: bool = False


@dataclass(frozen=True)
class DeviceSpec:
    """One `[[device]]`: which input devices, and how they are handed over.

    match: all given keys must hold: `name`, `phys`, `uniq` (fnmatch patterns), `vendor`,
    `product` (numbers), or any udev property by its own name (fnmatch pattern).
    hotkey: key codes by name (`KEY_...`), pressed together.
    """

    index: int
    match: dict[str, str | int]
    mode: DeviceMode = "mirror"
    hotkey: tuple[str, ...] = ()


@dataclass(frozen=True)
class KmcSpec:
    """`[kmc]`: the first foreground OS (None: the first OS of the file), and the deadline.

    may_flip: the OSes whose agents may ask for a flip; "*" is all. The command line and the hotkey
    always may. fallback: who follows when the foreground OS dies (None: the next living one).
    held: what becomes of modifier keys that are down at a flip; any other key is released for the
    old OS and not pressed for the new one.
    """

    foreground: str | None = None
    release_timeout: float = 0.2  # seconds
    may_flip: tuple[str, ...] = ("*",)
    fallback: str | None = None
    held: Held = "lift"


@dataclass(frozen=True)
class HostSpec:
    """A whole host file. `vms` holds VMs, then endpoints in `endpoints`; names are unique."""

    name: str
    path: Path  # the file, absolute; programs run with its directory as the working directory
    vms: tuple[VmSpec, ...] = ()
    endpoints: tuple[VmSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    filters: tuple[FilterSpec, ...] = ()
    mirrors: tuple[MirrorSpec, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()
    kmc: KmcSpec = field(default_factory=KmcSpec)
    uplinks: tuple[str, ...] = ()  # NICs of the machine that become ports of the switch
    nics: tuple[str, ...] = ()  # interfaces of the machine that the foreground OS has
    links: tuple[LinkSpec, ...] = ()  # impaired ones
    may_take: tuple[str, ...] = ()  # of both, those that may be the machine's way to the world
    screens: tuple[str, ...] = ()  # patterns of names of cards that the foreground OS has
    sounds: tuple[str, ...] = ()  # patterns of sound cards; the first card is what is heard

    def os_names(self) -> tuple[str, ...]:
        """The VMs that are operating systems, in the file's order."""
        return tuple(vm.name for vm in self.vms if vm.os is not None)


Json = dict[str, Any]
