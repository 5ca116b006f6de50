# SPDX-License-Identifier: Apache-2.0
"""Devices that programs of an OS make through /dev/uinput ([vm.os] uinput = true).

    made in      by /dev/uinput in an OS, which only that OS's programs can open
    belongs to   that OS alone, in the background too; no flip moves it, no `[[device]]` means it
    ends         with its last open file, so with the OS at the latest

Who made a device is what the kernel noted (netns/makers.py): the cgroup of the process that asked
for it. Its name and all else that it says of itself are the OS's to choose, and decide nothing. An
OS's cgroup is claimed (netns/claims.py) before its programs can make a device, so that another host
knows whose it is, too. A device of a host's VM that is not to have any is nobody's: its nodes go.

The machine's own programs find no node of it, and who was quick enough to open one loses it. Of the
keys that the machine's kernel obeys itself, the device has none (cext/vm/filter.c); its consoles
are quiet as long as there is an OS with uinput.

An OS has MOST devices at a time, and makes RATE a second in the long run: each costs the daemon a
look at the machine's processes. An OS that makes more is killed; a limit that it could only hear of
would not free what it has taken of the machine's numbers.
"""

import errno
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from cext.input.evict import evict
from hostsim.errors import HostsimError, reason
from hostsim.kmc.door import Bucket
from hostsim.kmc.osnodes import Node, OsNodes, udev_properties
from hostsim.model import Json
from netns import leds
from netns.claims import MADE, Claims
from netns.evdevices import Source
from netns.hotplug import InputNode
from netns.makers import Makers
from netns.nodes import drop

log = logging.getLogger("hostsim.kmc")

UINPUT = Path("/dev/uinput")
MOST = 64
RATE = 2.0

NOBODY = "-"
"""No OS: a VM of the host that is not to have a device of its own."""


class Made:
    """The devices of all OSes' own. Nothing is loaded before it is needed. All methods run in the
    daemon's loop."""

    def __init__(self, oses: dict[str, OsNodes], claims: Claims) -> None:
        self._oses = oses
        self._claims = claims
        self.makers: Makers | None = None
        self._cgroups: dict[int, str] = {}
        self._devices: dict[str, tuple[str, str, str]] = {}  # its OS, name, path
        self._buckets: dict[str, Bucket] = {}
        self._former: dict[int, Path] = {}  # cgroups of OSes that have left, and may not have ended

    @property
    def any(self) -> bool:
        """Whether an OS of this host has uinput."""
        return any(map(self._has, self._oses))

    def others(self, name: str) -> bool:
        """Whether another OS than this has it."""
        return any(self._has(other) for other in self._oses if other != name)

    def _has(self, name: str) -> bool:
        """Whether the host file gives it to this OS."""
        spec = self._oses[name].vm.spec.os
        return spec is not None and spec.uinput

    def start(self) -> None:
        """The OSes get /dev/uinput. Raises HostsimError."""
        if self.any:
            self._get_ready(self._oses)

    def _get_ready(self, names: Iterable[str]) -> None:
        if not UINPUT.is_char_device():
            hint = "modprobe uinput, or use a kernel that has it (scripts/testvm)"
            raise HostsimError("[vm.os] uinput", "this kernel offers no /dev/uinput", hint)
        try:
            self._load()
            for name in names:
                self.open(name)
        except OSError as error:
            hint = "it needs BTF and BPF trampolines; without them who made a device is not known"
            raise HostsimError("[vm.os] uinput", reason(error), hint) from error

    def open(self, name: str) -> None:
        """The OS is new, or started again: it gets /dev/uinput if it is to. Raises OSError."""
        if not self._has(name):
            return
        vm = self._oses[name].vm
        for cgroup in self._groups(name):  # of its last life
            self._claims.release_maker(cgroup)
            del self._cgroups[cgroup]
        self._forget_former()
        for cgroup, owner in (
            (vm.cgroup.parent.stat().st_ino, NOBODY),
            (os.fstat(vm.cgroup_fd).st_ino, name),
        ):
            self._claims.claim_maker(cgroup)
            self._cgroups[cgroup] = owner
        self._buckets[name] = Bucket(RATE, MOST)
        self._oses[name].keep(UINPUT.name, UINPUT.stat().st_rdev)

    def join(self, name: str) -> None:
        """The OS is new on the host. Raises HostsimError, OSError: `leave` then."""
        if self._has(name):
            self._get_ready([name])

    def leave(self, name: str) -> None:
        """The OS leaves the host, and ends then: its devices end with it. What it makes until then
        is nobody's."""
        if name in self._buckets:
            del self._buckets[name]
            path = self._oses[name].vm.cgroup
            for cgroup in self._groups(name):
                self._cgroups[cgroup] = NOBODY
                self._former[cgroup] = path

    def _forget_former(self) -> None:
        """Those OSes that have left and ended."""
        for cgroup, path in list(self._former.items()):
            if not path.exists() or path.stat().st_ino != cgroup:
                self._claims.release_maker(cgroup)
                del self._cgroups[cgroup], self._former[cgroup]

    def _groups(self, name: str) -> list[int]:
        """The OS's cgroups."""
        return [cgroup for cgroup, owner in self._cgroups.items() if owner == name]

    def maker(self, path: str) -> str | None:
        """Who made the device of a node: an OS of this host, or NOBODY in it; "": none of any host;
        None: another host's.

        path: of the node in sysfs, from /devices on. Raises OSError if that is not known."""
        theirs = self._claims.makers()
        if self.makers is None and not theirs:
            return ""
        cgroups = self._load().cgroups(path)
        if cgroups is None:
            raise OSError(errno.EAGAIN, "it is not known who made it")
        for cgroup in cgroups:
            if cgroup in self._cgroups:
                return self._cgroups[cgroup]
            if cgroup in theirs:
                return None
        return ""

    def has(self, sysname: str) -> bool:
        """Whether this node is a device of ours."""
        return sysname in self._devices

    def add(self, name: str, node: InputNode) -> None:
        """The device is the OS's. Raises OSError (ENODEV and the like: it has gone already)."""
        self._claims.claim(node.sysname, MADE)
        try:
            source = Source(node.node)
            try:
                evict(drop(node.node))
                leds.cut(leds.triggers(node.sysname))
                properties, title = udev_properties(source, node), source.identity.name
            finally:
                source.close()
        except OSError:
            self._claims.release(node.sysname)
            raise
        self._devices[node.sysname] = name, title, node.path
        if name == NOBODY:
            log.warning("%s (%s): made in a VM that is not to make any", title, node.node)
            return
        mine = sum(owner == name for owner, _, _ in self._devices.values())
        if mine > MOST or not self._buckets[name].take(time.monotonic()):
            log.error("%s: killed, as it makes too many input devices", name)
            self._oses[name].vm.kill()
            return
        self._oses[name].give(Node(node.sysname, source.rdev, node.path, properties))
        self._oses[name].give_old(node.sysname)
        log.info("%s (%s): made in %s", title, node.node, name)

    def hide(self, sysname: str) -> None:
        """As `Mirror.hide`, of what an OS made. Raises OSError."""
        if sysname in self._devices:
            evict(drop(f"/dev/input/{sysname}"))
            owner, _, _ = self._devices[sysname]
            if owner in self._oses:
                self._oses[owner].give_old(sysname)

    def remove(self, sysname: str) -> None:
        """The device is gone. One that is not ours is no error."""
        device = self._devices.pop(sysname, None)
        if device is None:
            return
        name, _, path = device
        if name in self._oses:
            self._oses[name].forget(sysname)
        if self.makers is not None:
            self.makers.forget(path)
        self._claims.release(sysname)

    def identify(self) -> list[Json]:
        """The devices, as `Equipment.identify` has others."""
        return [
            {
                "name": title,
                "node": f"/dev/input/{sysname}",
                "mode": "uinput",
                "owner": name,
                "states": {name: {"node": f"/dev/input/{sysname}"}},
            }
            for sysname, (name, title, _) in self._devices.items()
        ]

    def close(self) -> None:
        """Of devices that are still there nothing comes back: their OSes end next. Twice is
        harmless."""
        self._devices.clear()
        self._cgroups.clear()
        if self.makers is not None:
            self.makers.close()
            self.makers = None

    def _load(self) -> Makers:
        if self.makers is None:
            self.makers = Makers()
        return self.makers
