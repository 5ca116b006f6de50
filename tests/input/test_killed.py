# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed (kill -9): what its OSes have set on a device of theirs is set back by
`hostsim clean`, as `hostsim down` sets it back."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from evdev import AbsInfo, InputDevice, UInput, ecodes

from help.cli import hostsim, kill_daemon
from help.programs import program

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

HOST = """
[host]
name = "killed"
[[vm]]
name = "work"
[vm.os]
[[device]]
match = {{ name = "{}" }}
mode = "direct"
"""
GET_KEYCODE = 0x80084504
A_SCAN = 30


@contextlib.contextmanager
def keyboard() -> Iterator[InputDevice[str]]:
    """The test VM's own: uinput's have no key map."""
    every = [InputDevice(str(path)) for path in Path("/dev/input").glob("event*")]
    yield next(one for one in every if one.name.startswith("AT "))
    for one in every:
        one.close()


@contextlib.contextmanager
def pad() -> Iterator[InputDevice[str]]:
    axes: dict[int, Any] = {
        ecodes.EV_KEY: [ecodes.BTN_SOUTH],
        ecodes.EV_ABS: [(0, AbsInfo(0, -128, 127, 0, 0, 0))],
    }
    with UInput(axes, name="Test Pad") as device:
        yield device.device


@contextlib.contextmanager
def named(device: InputDevice[str]) -> Iterator[str]:
    """A path by which the node can be opened, wherever it is; a file that is open is revoked."""
    fd = os.open(device.path, os.O_PATH)
    yield f"/proc/{os.getpid()}/fd/{fd}"
    os.close(fd)


def keys(device: InputDevice[str]) -> list[Any]:
    code = fcntl.ioctl(device.fd, GET_KEYCODE, struct.pack("II", A_SCAN, 0))
    return [tuple(device.repeat), struct.unpack("II", code)[1]]


def axis(device: InputDevice[str]) -> list[Any]:
    return list(device.absinfo(ecodes.ABS_X))[1:]


KINDS: dict[
    str, tuple[Any, str, Callable[[InputDevice[str]], list[Any]], list[tuple[Any, ...]]]
] = {
    "keyboard": (keyboard, "AT *", keys, [("repeat", 500, 30), ("keycode", ecodes.KEY_B)]),
    "pad": (pad, "Test Pad", axis, [("calibrate", -100, 90, 3, 4)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["down", "kill -9 and clean"])
def test_a_device_is_set_back_as_it_was_found(tmp_path: Path, kind: str, end: str) -> None:
    made, name, settings, changes = KINDS[kind]
    file = tmp_path / "killed.toml"
    file.write_text(HOST.format(name))
    with made() as plugged, named(plugged) as path:

        def now() -> list[Any]:
            with contextlib.closing(InputDevice(path)) as device:
                return settings(device)

        found = now()
        hostsim("up", str(file))
        try:
            for words in changes:
                hostsim("exec", "work", "--", *program("evdevs", *words))
            assert now() != found
        finally:
            if end == "down":
                hostsim("down")
            else:
                kill_daemon("killed")
                hostsim("clean")
        assert now() == found
        assert Path(plugged.path).exists()
