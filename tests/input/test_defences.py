# SPDX-License-Identifier: Apache-2.0
"""What a hostile OS tries, each twice: it fails, and with the one defence against it taken out it
succeeds. So each of these tests can fail, and for the reason that it names.

`defended` is False if the test takes the defence out: a function that embodies it is replaced,
or the attacker runs on the machine itself instead of in an OS.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cext.input.revoke import Hold, Revoked, Revoker
from help.rig import DEADLINE, Puppet, Rig, Typist, spec
from help.waiting import until
from hostsim.kmc import agents, door, wire
from hostsim.kmc.osnodes import Node, node_path
from hostsim.kmc.wire import Message, Type
from hostsim.model import DeviceMode, KmcSpec
from netns.devices import DeviceList

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

Patch = pytest.MonkeyPatch
EVENT = struct.Struct("llHHi")
SHORT = 4.0  # seconds: an agent that lives answers before, also on a slow machine


@pytest.fixture(params=[True, False], ids=["defended", "defence out"])
def defended(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[DeviceMode], Rig]]:
    """host(mode): OSes work, play and third are up."""
    rigs: list[Rig] = []

    def make(mode: DeviceMode) -> Rig:
        made = spec(mode, kmc=KmcSpec("work", SHORT))
        rig = Rig(replace(made, vms=(*made.vms, replace(made.vms[0], name="third"))), tmp_path)
        rigs.append(rig)
        rig.start()
        return rig

    yield make
    for rig in rigs:
        rig.stop()


def plugged(rig: Rig) -> tuple[Typist, str]:
    """A keyboard that the KMC has; the name of its node (in direct mode)."""
    keyboard = rig.typist("keyboard", "Test Keyboard")
    until(rig.devices, DEADLINE, "the KMC has the keyboard")
    return keyboard, keyboard.node


def reads(attacker: Puppet, fd: str) -> bool:
    """Whether it has read something (or else the kernel told it that it may not)."""
    answer = attacker("read", fd)
    assert answer.isdigit() or answer in ("ENODEV", "EAGAIN"), answer
    return answer.isdigit()


# ---- the node ------------------------------------------------------------------------------------


def test_a_kept_descriptor_reads_nothing(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch
) -> None:
    """Defence: open files are revoked."""
    if not defended:
        nothing = Revoked(0, 0, 0, 0, 1, False, True)
        monkeypatch.setattr(Revoker, "revoke_noted", lambda *_: (False, (0,)))
        monkeypatch.setattr(Revoker, "revoke", lambda *_: nothing)
    rig = host("direct")
    keyboard, node = plugged(rig)
    attacker = Puppet(rig.vms["work"])
    fd = attacker("open", node)
    rig.flip("play")
    keyboard("tap KEY_A")
    assert reads(attacker, fd) is not defended


def test_a_descriptor_that_another_os_was_given_reads_nothing(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch, tmp_path: Path
) -> None:
    """By SCM_RIGHTS; the giver closes its own. Defence: all OSes are looked through, not only the
    one that loses the device."""
    if not defended:
        whole = Revoker.revoke

        def only_the_loser(self: Revoker, hold: Hold, everybody: Path, *rest: Any) -> Revoked:
            return whole(self, hold, everybody / "work", *rest)

        monkeypatch.setattr(Revoker, "revoke", only_the_loser)
    rig = host("direct")
    keyboard, node = plugged(rig)
    giver, taker = Puppet(rig.vms["work"]), Puppet(rig.vms["play"])
    meeting = tmp_path / "meeting"
    assert taker("bind", meeting) == "done"
    fd = giver("open", node)
    assert giver("give", meeting, fd) == "done"
    assert giver("close", fd) == "done"
    fd = taker("take", meeting)
    rig.flip("third")
    keyboard("tap KEY_A")
    assert reads(taker, fd) is not defended


def test_a_kept_name_of_the_node_does_not_open(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch
) -> None:
    """A hard link, which stays when the node goes. Defence: the OS's device list."""
    if not defended:
        monkeypatch.setattr(DeviceList, "deny", lambda *_: None)
    rig = host("direct")
    keyboard, node = plugged(rig)
    attacker = Puppet(rig.vms["work"])
    assert attacker("link", node, "/dev/input/kept") == "done"
    rig.flip("play")
    fd = attacker("open", "/dev/input/kept")
    if defended:
        assert fd == "EPERM"
    else:
        keyboard("tap KEY_A")
        assert reads(attacker, fd)


def test_nothing_is_opened_before_the_take(
    host: Callable[[DeviceMode], Rig], defended: bool, tmp_path: Path
) -> None:
    """A node that somebody left in a place that the OSes share. Defence: the device list."""
    rig = host("direct")
    keyboard, _ = plugged(rig)
    rdev = keyboard.rdev
    left = tmp_path / "left"
    os.mknod(left, stat.S_IFCHR | 0o666, rdev)
    attacker = Puppet(rig.vms["play"])
    if not defended:
        devices = rig.vms["play"].devices
        rig.now(lambda: devices.allow(os.major(rdev), os.minor(rdev)))
    fd = attacker("open", left)
    if defended:
        assert fd == "EPERM"
    else:
        keyboard("tap KEY_A")
        assert reads(attacker, fd)


def test_a_background_os_hears_no_others_clone(
    host: Callable[[DeviceMode], Rig], defended: bool
) -> None:
    """What an OS writes into its clone stays there. Defence: each OS has a clone of its own."""
    rig = host("mirror")
    plugged(rig)
    states = rig.devices()[0]["states"]
    names = {os: state["node"].rpartition("/")[2] for os, state in states.items()}
    if not defended:
        shared = names["work"]
        major, minor = Path(f"/sys/class/input/{shared}/dev").read_text().split(":")
        node = Node(shared, os.makedev(int(major), int(minor)), node_path(shared))
        rig.now(lambda: rig.kmc._nodes["play"].give(node))
    victim, attacker = Puppet(rig.vms["work"]), Puppet(rig.vms["play"])
    fd = victim("open", f"/dev/input/{names['work']}")
    mine = f"/dev/input/{names['play'] if defended else names['work']}"
    key = EVENT.pack(0, 0, 1, 48, 1) + EVENT.pack(0, 0, 0, 0, 0)
    assert attacker("write", attacker("open", mine), key.hex()) == str(len(key))
    assert reads(victim, fd) is not defended


# ---- around it -----------------------------------------------------------------------------------


def test_siblings_of_the_node_are_out_of_reach(
    host: Callable[[DeviceMode], Rig], defended: bool
) -> None:
    """The node, uinput and hidraw by number; other processes' files in /proc; sysfs, by which a
    device can be silenced. Defence: what surrounds an OS; without it, all of that goes."""
    rig = host("direct")
    keyboard, node = plugged(rig)
    folder = Path(f"/sys{node_path(os.path.basename(node))}").parent
    attacker = Puppet(rig.vms["play"] if defended else None)
    try:
        numbers = [keyboard.rdev, os.stat("/dev/uinput").st_rdev]
        found = [attacker("mknod", "/dev/shm/x", rdev) for rdev in (*numbers, os.makedev(244, 0))]
        found.append(attacker("store", folder / "inhibited", 0))
        assert found == (["EPERM"] * 3 + ["EROFS"] if defended else ["done"] * 4)
        for path in (f"/proc/{os.getpid()}/fd", f"/proc/{rig.vms['work'].pid}/root/dev/input"):
            answer = attacker("list", path)
            assert answer == "ENOENT" if defended else answer.isdigit()
    finally:
        attacker.end()


# ---- the agent socket ----------------------------------------------------------------------------


def message(kind: Type, body: str = "") -> str:
    return wire.encode(Message(kind, 1, body)).hex()


def test_nobody_passes_for_the_resident_agent(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch
) -> None:
    """Whoever did could keep quiet, and each flip away would wait for the deadline. Defence: the
    kernel says whose the connection is (SO_PEERCRED)."""
    if not defended:
        monkeypatch.setattr(agents.AgentPort, "_is_resident", lambda *_: True)
    rig = host("mirror")
    attacker = Puppet(rig.vms["work"])
    assert attacker("stay", message(Type.HELLO)) == "done"
    if not defended:
        agent = rig.agent("work").pid
        until(lambda: rig.now(lambda: resident(rig)) != agent, DEADLINE, "it passes for it")
    rig.flip("play")
    assert rig.status()["oses"][0]["overruled"] == int(not defended)


def resident(rig: Rig) -> int:
    """The process that the KMC takes for the agent of work. Runs in its loop."""
    connection = rig.kmc._ports["work"].resident
    assert connection is not None
    return connection.pid


@pytest.mark.parametrize("text", ["68", "ff" * 9000, "6841" + "0904" + "00000000"])
def test_garbage_ends_the_connection(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch, text: str
) -> None:
    """Half a header, a huge message, another version. Defence: wire.decode."""
    if not defended:
        strict = wire.decode

        def lenient(data: bytes) -> Message:
            try:
                return strict(data)
            except wire.WireError:
                return Message(Type.STATUS, 1, "")

        monkeypatch.setattr(wire, "decode", lenient)
    rig = host("mirror")
    attacker = Puppet(rig.vms["play"])
    assert int(attacker("say", text, 3)) == (0 if defended else 3)


def test_a_flood_of_messages_is_cut_off(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch
) -> None:
    """Defence: messages a second (door.Bucket)."""
    if not defended:
        monkeypatch.setattr(door.Bucket, "take", lambda *_: True)
    rig = host("mirror")
    attacker = Puppet(rig.vms["play"])
    many = 3000
    answers = int(attacker("say", message(Type.STATUS), many))
    assert (answers < many) is defended, answers


def test_a_crowd_of_connections_is_turned_away(
    host: Callable[[DeviceMode], Rig], defended: bool, monkeypatch: Patch
) -> None:
    """Defence: connections of one OS (agents.CONNECTIONS); one is the resident agent's."""
    if not defended:
        monkeypatch.setattr(agents, "CONNECTIONS", 1000)
    rig = host("mirror")
    attacker = Puppet(rig.vms["play"])
    assert int(attacker("crowd", 60)) == (agents.CONNECTIONS - 1 if defended else 60)
