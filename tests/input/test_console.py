# SPDX-License-Identifier: Apache-2.0
"""The machine's text console hears nothing of a keyboard that OSes have, and hears it again when
they have it no more: after `down`, and after kill -9 and `clean`. SysRq does as the console."""

import fcntl
import os
import struct
import subprocess
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from help.cli import hostsim, kill_daemon
from help.rig import DEADLINE, Typist
from help.waiting import becomes

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

HOST = """
[host]
name = "quiet"
[[vm]]
name = "work"
[vm.os]
[[device]]
match = {{ name = "Test Keyboard" }}
mode = "{}"
"""
GET_STATE, GET_MODE = 0x5603, 0x4B44
K_OFF = 4
SYSRQ = Path("/proc/sys/kernel/sysrq")
PRESS = """
import glob, os, struct
(node,) = glob.glob("/dev/input/event*")
fd = os.open(node, os.O_RDWR)
for code, value in ((56, 1), (99, 1), (35, 1), (35, 0), (99, 0), (56, 0)):
    os.write(fd, struct.pack("llHHi", 0, 0, 1, code, value) + struct.pack("llHHi", 0, 0, 0, 0, 0))
"""
"""Alt, SysRq and H, which has the kernel log what SysRq can do, by an OS's user 0."""


@contextmanager
def console() -> Iterator[int]:
    """The active one, read as it comes."""
    with open("/dev/tty0", "rb", buffering=0) as current:
        number = struct.unpack("3H", fcntl.ioctl(current, GET_STATE, bytes(6)))[0]
    fd = os.open(f"/dev/tty{number}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    yield fd
    termios.tcsetattr(fd, termios.TCSANOW, before)
    os.close(fd)


def mode_of(fd: int) -> int:
    mode: int = struct.unpack("i", fcntl.ioctl(fd, GET_MODE, bytes(4)))[0]
    return mode


def heard(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return b""


def logged() -> str:
    """All that the kernel has in its log."""
    return subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("end", ["down", "kill -9 and clean"])
def test_the_console_is_deaf_while_an_os_has_the_keyboard(
    tmp_path: Path, mode: str, end: str
) -> None:
    file = tmp_path / "quiet.toml"
    file.write_text(HOST.format(mode))
    keyboard = Typist("keyboard", "Test Keyboard")
    with console() as fd:
        found, allowed = mode_of(fd), SYSRQ.read_text()
        assert found != K_OFF
        assert int(allowed) != 0
        keyboard("tap KEY_A")
        becomes(lambda: heard(fd), b"a", DEADLINE, "the console hears the keyboard")
        hostsim("up", str(file))
        try:
            assert mode_of(fd) == K_OFF
            keyboard("tap KEY_B")
            hostsim("exec", "work", "--", "python3", "-c", PRESS)
            assert "sysrq: HELP" not in logged()
        finally:
            if end == "down":
                hostsim("down")
            else:
                kill_daemon("quiet")
                hostsim("clean")
        assert (mode_of(fd), SYSRQ.read_text()) == (found, allowed)
        keyboard("tap KEY_C")
        becomes(lambda: heard(fd), b"c", DEADLINE, "it hears that, and has heard nothing between")
    keyboard.unplug()
