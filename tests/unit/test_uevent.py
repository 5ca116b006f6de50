# SPDX-License-Identifier: Apache-2.0
"""Device events as libudev takes them: its own socket filters, read back from the kernel, are run
over the messages that an OS gets. Hashes and Bloom filters are libudev's there, not ours."""

import ctypes
import ctypes.util
import itertools
import os
import socket
import string

import pytest
import pyudev
from hypothesis import given, settings
from hypothesis import strategies as st

from help import cbpf
from netns.uevent import kernel_message, murmur2, udev_message

SO_GET_FILTER = 26
"""<asm-generic/socket.h>: SO_ATTACH_FILTER's number, to read it back."""
LENGTH_MAX = 512
names = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=20)


def libudevs(
    subsystem: str | None = None, devtype: str | None = None, tag: str | None = None
) -> list[cbpf.Instruction]:
    """The filter that libudev gives the socket of a monitor like this."""
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), "udev")
    if subsystem is not None:
        monitor.filter_by(subsystem, devtype)
    if tag is not None:
        monitor.filter_by_tag(tag)
    monitor.start()
    libc = ctypes.CDLL(None, use_errno=True)
    raw = ctypes.create_string_buffer(8 * LENGTH_MAX)
    length = ctypes.c_uint32(LENGTH_MAX)  # in instructions, in and out
    done = libc.getsockopt(
        monitor.fileno(), socket.SOL_SOCKET, SO_GET_FILTER, raw, ctypes.byref(length)
    )
    assert done == 0, os.strerror(ctypes.get_errno())
    assert 0 < length.value < LENGTH_MAX
    return cbpf.program(raw.raw[: 8 * length.value])


def message(subsystem: str, devtype: str = "", tags: str = "") -> bytes:
    properties = {"ACTION": "add", "DEVPATH": "/devices/x", "SUBSYSTEM": subsystem, "SEQNUM": "1"}
    if devtype:
        properties["DEVTYPE"] = devtype
    if tags:
        properties["TAGS"] = tags
    return udev_message(properties)


def takes(code: list[cbpf.Instruction], *words: str) -> bool:
    return cbpf.run(code, message(*words)) != 0


@pytest.mark.parametrize("subsystem", ["input", "a", "ab", "abc", "abcd", "hidraw", "net"])
def test_a_monitor_takes_its_subsystem_and_no_other(subsystem: str) -> None:
    code = libudevs(subsystem)
    assert takes(code, subsystem)
    assert takes(code, subsystem, "any-type", ":seat:")
    for other in {"input", "input2", "inpu", "block", "tty", "hidraw", "net"} - {subsystem}:
        assert not takes(code, other)


@settings(deadline=None)
@given(names, names)
def test_names_are_hashed_as_libudev_does(subsystem: str, devtype: str) -> None:
    """Of every length, whose last bytes are hashed in another way."""
    code = libudevs(subsystem, devtype)
    assert takes(code, subsystem, devtype)
    assert not takes(code, subsystem)
    assert not takes(code, subsystem, devtype + "x")
    assert not takes(code, subsystem + "x", devtype)


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=5), names)
def test_every_tag_is_found(tags: list[str], other: str) -> None:
    """A Bloom filter may take what has not the tag; it must not refuse what has. One tag alone
    lets next to nothing else by."""
    code = libudevs(tag=tags[0])
    for order in itertools.islice(itertools.permutations(tags), 6):
        assert takes(code, "input", "", f":{':'.join(order)}:")
    assert not takes(code, "input")
    bits = {murmur2(tags[0].encode()) >> shift & 63 for shift in (0, 6, 12, 18)}
    others = {murmur2(other.encode()) >> shift & 63 for shift in (0, 6, 12, 18)}
    assert takes(code, "input", "", f":{other}:") == (bits <= others)


def test_a_device_that_has_lost_a_tag_is_found_by_what_it_has_now() -> None:
    code = libudevs(tag="seat")
    properties = {"ACTION": "change", "DEVPATH": "/d", "SUBSYSTEM": "input", "SEQNUM": "1"}
    now = properties | {"TAGS": ":seat:old:", "CURRENT_TAGS": ":old:"}
    assert cbpf.run(code, udev_message(now)) == 0
    assert cbpf.run(code, udev_message(now | {"CURRENT_TAGS": ":seat:"})) != 0


def test_what_is_not_from_udev_is_left_to_the_reader() -> None:
    """The kernel's own messages have no header to filter by."""
    kernel = kernel_message("add", "/devices/x", {"SUBSYSTEM": "block"})
    assert kernel.split(b"\0")[:3] == [b"add@/devices/x", b"ACTION=add", b"DEVPATH=/devices/x"]
    assert cbpf.run(libudevs("input"), kernel) != 0
