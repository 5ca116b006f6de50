# SPDX-License-Identifier: Apache-2.0
"""Which devices a VM can open: cgroup device programs (see cext/vm/devices.bpf.c).

The fixed list is in the program; `allow` adds to it. VMs that never get more share one loaded
program; a VM with devices of its own (an OS) has its own.
"""

import struct

from cext.bpf import objects as bpf
from netns.errors import HostsimError
from netns.loaded import Loaded, no_cgroup_bpf

_KEY = struct.Struct("=II")
WHAT = "device program"


class DeviceList:
    """The devices of one VM. own: it can get more than the fixed list (character devices only).

    Nothing is loaded before `attach`."""

    def __init__(self, own: bool) -> None:
        self._own = own
        self._object: bpf.Object | None = None
        self._map: bpf.Map | None = None

    def attach(self, cgroup_fd: int) -> None:
        """Deny everything but the list to the cgroup; the program goes when the cgroup does. Raises
        HostsimError if the kernel has no BPF for that."""
        self._object = _load() if self._own else _shared.take()
        try:
            program = self._object.program("device")
            bpf.attach_cgroup(program, cgroup_fd, bpf.CGROUP_DEVICE, bpf.ALLOW_MULTI)
            if self._own:
                self._map = self._object.map("extra")
        except OSError as error:
            self.close()
            raise no_cgroup_bpf(WHAT, error) from error

    def allow(self, major: int, minor: int) -> None:
        """Let the VM open a character device too. Raises OSError, or HostsimError on a plain VM."""
        self._extra().set(_KEY.pack(major, minor), b"\1")

    def deny(self, major: int, minor: int) -> None:
        """Take it back: later opens fail, files that are open stay so. Not allowed is no error."""
        self._extra().delete(_KEY.pack(major, minor))

    def close(self) -> None:
        """Let go of the program; it stays attached while its cgroup lives. Twice is harmless."""
        if self._object is not None:
            if self._own:
                self._object.close()
            else:
                _shared.give_back()
            self._object = self._map = None

    def _extra(self) -> bpf.Map:
        if not self._own:
            raise HostsimError("device list", "this VM has no list of its own")
        if self._map is None:
            raise HostsimError("device list", "the VM does not run")
        return self._map


def _load() -> bpf.Object:
    try:
        return bpf.Object("devices")
    except OSError as error:
        raise no_cgroup_bpf(WHAT, error) from error


_shared = Loaded(_load)
"""The one program of all plain VMs."""
