# SPDX-License-Identifier: Apache-2.0
"""Input devices that come and go, and screens (udev through pyudev). The only module that imports
pyudev.

Where a udev daemon runs, its messages are used: then the device's properties are complete and its
node has its owner. Without one, the kernel's own messages serve.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyudev

BESIDE, APART = "beside", "apart"
_EVENT = re.compile(r"event\d+")
_BESIDE = re.compile(r"(js|mouse)\d+")
_CARD = re.compile(r"card\d+")


@dataclass(frozen=True)
class InputNode:
    """An evdev node, or one beside it. path: in sysfs. properties: udev's, as they are now."""

    sysname: str
    node: str
    path: str
    properties: dict[str, str] = field(default_factory=dict)


class _Messages:
    """udev's messages of one subsystem. Owns its socket until `close`."""

    def __init__(self, subsystem: str) -> None:
        source = "udev" if Path("/run/udev/control").exists() else "kernel"
        self._context = pyudev.Context()
        self._monitor = pyudev.Monitor.from_netlink(self._context, source)
        self._monitor.filter_by(subsystem)
        self._monitor.set_receive_buffer_size(8 << 20)
        self._monitor.start()

    def fileno(self) -> int:
        """Readable when there are some."""
        fd: int = self._monitor.fileno()
        return fd

    def close(self) -> None:
        """Stop watching. Twice is harmless."""
        del self._monitor, self._context
        self._monitor = self._context = None

    def _next(self) -> Iterator[pyudev.Device]:
        """The devices of those that wait."""
        while (device := self._monitor.poll(0)) is not None:
            yield device


class Hotplug(_Messages):
    """Watches evdev nodes, and those that the kernel's drivers joydev and mousedev put beside them:
    such a driver may be loaded long after the device came. Owns its socket until `close`."""

    def __init__(self) -> None:
        super().__init__("input")

    def present(self) -> list[InputNode]:
        """Every evdev node there is."""
        devices = self._context.list_devices(subsystem="input")
        return sorted(
            (_node(d) for d in devices if _is_event(d)), key=lambda node: int(node.sysname[5:])
        )

    def events(self) -> Iterator[tuple[str, InputNode]]:
        """What has happened since: (`add`, `remove`, `change`, BESIDE or APART, node); BESIDE: a
        node has come beside an evdev node; APART: it has gone."""
        for device in self._next():
            if _is_event(device):
                yield str(device.action), _node(device)
            elif device.action in ("add", "remove") and _BESIDE.fullmatch(device.sys_name):
                yield BESIDE if device.action == "add" else APART, _node(device)


class ScreenPlugs(_Messages):
    """Watches what is plugged into display cards. Owns its socket until `close`."""

    def __init__(self) -> None:
        super().__init__("drm")

    def changes(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Cards of which something has changed since (as `card0`): name, path in sysfs from
        /devices on, and udev's properties."""
        for device in self._next():
            if device.action == "change" and _CARD.fullmatch(device.sys_name):
                yield device.sys_name, device.device_path, _properties(device)


def _is_event(device: pyudev.Device) -> bool:
    return bool(_EVENT.fullmatch(device.sys_name)) and device.device_node is not None


def _properties(device: pyudev.Device) -> dict[str, str]:
    return {str(key): str(value) for key, value in device.properties.items()}


def _node(device: pyudev.Device) -> InputNode:
    place = device.sys_name, device.device_node, device.device_path
    return InputNode(*place, _properties(device))
