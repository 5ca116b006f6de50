# SPDX-License-Identifier: Apache-2.0
"""Devices that say odd things of themselves, that somebody else has, or that another host made."""

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from help.rig import DEADLINE, Rig, spec
from help.waiting import becomes, until
from hostsim.model import DeviceMode

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

EV_KEY, EV_ABS, A, ABS_X = 1, 3, 30, 0
EVIOCGRAB, EVIOCGUNIQ = 0x40044590, 0x80504508


class Odd:
    """A uinput device of which only what is said here is known."""

    def __init__(self, name: bytes, axis: tuple[int, ...] | None = None) -> None:
        self._fd = os.open("/dev/uinput", os.O_RDWR)
        fcntl.ioctl(self._fd, 0x40045564, EV_KEY)
        for key in range(1, 100):
            fcntl.ioctl(self._fd, 0x40045565, key)
        if axis is not None:
            fcntl.ioctl(self._fd, 0x40045564, EV_ABS)
            fcntl.ioctl(self._fd, 0x401C5504, struct.pack("H2x6i", ABS_X, *axis))
        fcntl.ioctl(self._fd, 0x405C5503, struct.pack("=4H80sI", 3, 1, 1, 1, name, 0))
        fcntl.ioctl(self._fd, 0x5501)
        buffer = bytearray(64)
        fcntl.ioctl(self._fd, 0x8040552C, buffer)
        device = Path("/sys/devices/virtual/input") / buffer.split(b"\0")[0].decode()
        self.node = "/dev/input/" + next(path.name for path in device.glob("event*"))

    def press(self, code: int, value: int) -> None:
        frame = struct.pack("qqHHi", 0, 0, EV_KEY, code, value) + bytes(24)
        os.write(self._fd, frame)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture(params=["mirror", "direct"])
def mode(request: pytest.FixtureRequest) -> DeviceMode:
    chosen: DeviceMode = request.param
    return chosen


@pytest.fixture
def rig(tmp_path: Path, mode: DeviceMode) -> Iterator[Rig]:
    made = Rig(spec(mode), tmp_path)
    yield made
    made.stop()


BOOT_KEYBOARD = bytes.fromhex(
    "05010906a101050719e029e71500250175019508810295017508810395057501050819012905"
    "910295017503910395067508150025650507190029658100c0"
)
"""The report descriptor of HID 1.11, appendix E.6."""
SERIAL = b"00:11:22:33:44:55"


@contextlib.contextmanager
def with_serial(name: bytes) -> Iterator[None]:
    """A keyboard that has a serial number: through uhid, since uinput can set none."""
    subprocess.run(["modprobe", "uhid"], check=True)
    words = 11, name, b"", SERIAL, len(BOOT_KEYBOARD), 3, 0x1209, 1, 1, 0  # UHID_CREATE2
    with open("/dev/uhid", "r+b", buffering=0) as file:
        file.write(struct.pack("<I128s64s64sHHIIII", *words) + BOOT_KEYBOARD.ljust(4096, b"\0"))
        yield


def test_a_serial_number_is_there_or_its_lack_is_said(rig: Rig, mode: DeviceMode) -> None:
    with with_serial(b"Test Keyboard with a serial"):
        rig.start()
        until(lambda: rig.devices() and taken(rig), DEADLINE, "it is taken")
        (device,) = rig.devices()
        node = device["states"]["work"]["node"]
        with open(f"/proc/{rig.vms['work'].pid}/root{node}", "rb", buffering=0) as file:
            serial = bytearray(80)
            try:
                fcntl.ioctl(file, EVIOCGUNIQ, serial)
            except FileNotFoundError:
                serial = bytearray()
        assert serial.rstrip(b"\0") == (b"" if mode == "mirror" else SERIAL)
        assert device.get("lacks", []) == (["uniq"] if mode == "mirror" else [])
    becomes(rig.devices, [], DEADLINE, "it is gone")


def taken(rig: Rig) -> list[str]:
    return [device["node"] for device in rig.devices() if not device.get("why")]


def test_a_name_that_is_no_utf8_is_a_name(rig: Rig) -> None:
    nobodys, ours = Odd(b"M\xfcller pad"), Odd(b"Test Keyboard M\xfcller")
    try:
        rig.start()
        assert taken(rig) == [ours.node]
        assert rig.devices()[0]["name"] == "Test Keyboard M\\xfcller"
        later = Odd(b"Test Keyboard \x1b[2J\n")
        becomes(lambda: len(taken(rig)), 2, DEADLINE, "the other one is taken")
        assert rig.devices()[1]["name"].isprintable()
        reader = rig.reader("work")
        ours.press(A, 1)
        until(lambda: (A, 1) in reader.pressed(), DEADLINE, "work reads")
        later.close()
    finally:
        nobodys.close()
        ours.close()


@pytest.mark.parametrize("mode", ["mirror"])
def test_an_axis_that_defies_its_range_is_cloned_as_it_is(rig: Rig) -> None:
    """uinput refuses it in a description, as the kernel does not in EVIOCSABS."""
    odd = Odd(b"Test Keyboard", axis=(0, 0, 255, 0, 0, 0))
    fd = os.open(odd.node, os.O_RDWR)
    fcntl.ioctl(fd, 0x401845C0, struct.pack("6i", 7, 10, -10, 1, 500, 3))
    os.close(fd)
    rig.start()
    assert taken(rig) == [odd.node]
    clone = rig.devices()[0]["states"]["work"]["node"]
    with open(f"/proc/{rig.vms['work'].pid}/root{clone}", "rb", buffering=0) as node:
        info = bytearray(24)
        fcntl.ioctl(node, 0x80184540, info)
    assert struct.unpack("6i", info)[1:] == (10, -10, 1, 500, 3)
    odd.close()


def test_a_device_that_is_grabbed_is_named_and_taken_when_it_is_free(rig: Rig) -> None:
    odd = Odd(b"Test Keyboard")
    program = os.open(odd.node, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(program, EVIOCGRAB, 1)
        rig.start()
        waiting = [device for device in rig.devices() if device.get("why")]
        assert [(w["name"], w["node"], w["owner"]) for w in waiting] == [
            ("Test Keyboard", odd.node, None)
        ]
        assert "grabbed" in waiting[0]["why"]
        fcntl.ioctl(program, EVIOCGRAB, 0)
        becomes(lambda: taken(rig), [odd.node], DEADLINE, "it is taken now that it is free")
    finally:
        os.close(program)
        odd.close()


def test_two_hosts_share_no_device_and_clone_no_clone(tmp_path: Path, mode: DeviceMode) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = Rig(spec(mode), tmp_path / "a")
    second = Rig(replace(spec("mirror"), name="inp2"), tmp_path / "b")
    odd = Odd(b"Test Keyboard")
    try:
        first.start()
        assert taken(first) == [odd.node]
        second.start()
        assert taken(second) == []
        assert [device["why"] for device in second.devices()] == ["host inp has it"]
        last = Odd(b"Test Keyboard, the last one")
        becomes(lambda: len(taken(first)) + len(taken(second)), 2, DEADLINE, "somebody has it")
        nodes = {device["node"] for rig in (first, second) for device in rig.devices()}
        assert nodes == {odd.node, last.node}
        last.close()
        first.stop()
        becomes(lambda: taken(second), [odd.node], DEADLINE, "it is the second host's now")
    finally:
        first.stop()
        second.stop()
        odd.close()


RULES = Path(__file__).parents[2] / "hostsim" / "udev" / "72-hostsim.rules"


@pytest.fixture
def rule() -> Iterator[None]:
    """The rule that ships is installed."""
    where = Path("/run/udev/rules.d") / RULES.name
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(RULES.read_text())
    subprocess.run(["udevadm", "control", "--reload"], check=True)
    yield
    where.unlink()
    subprocess.run(["udevadm", "control", "--reload"], check=True)


@pytest.mark.parametrize("mode", ["mirror"])
def test_the_machine_has_no_use_for_a_clone(rig: Rig, rule: None) -> None:
    odd = Odd(b"Test Keyboard")
    try:
        rig.start()
        subprocess.run(["udevadm", "settle"], check=True)
        before = properties(odd.node)
        assert "LIBINPUT_IGNORE_DEVICE" not in before
        assert "power-switch" in current_tags(before)
        for state in rig.devices()[0]["states"].values():
            node = state["node"]
            becomes(partial(ignored, node), "1", DEADLINE, "the machine's udev has it")
            seen = properties(node)
            assert not current_tags(seen) & {"seat", "uaccess", "power-switch"}
            assert not Path(state["node"]).exists(), "there is nothing to open"
        inside = rig.vms["work"].run(["udevadm", "info", "-q", "property", "--name", clone(rig)])
        assert b"ID_INPUT_KEYBOARD=1" in inside.stdout
        assert b"LIBINPUT_IGNORE_DEVICE" not in inside.stdout
    finally:
        odd.close()


def ignored(node: str) -> str | None:
    return properties(node).get("LIBINPUT_IGNORE_DEVICE")


def clone(rig: Rig) -> str:
    return str(rig.devices()[0]["states"]["work"]["node"])


def current_tags(found: dict[str, str]) -> set[str]:
    """TAGS has what a device ever had."""
    return set(found.get("CURRENT_TAGS", "").split(":"))


def properties(node: str) -> dict[str, str]:
    """What the machine's udev says of it."""
    path = f"/sys/class/input/{Path(node).name}"
    done = subprocess.run(
        ["udevadm", "info", "-q", "property", "--path", path], capture_output=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
