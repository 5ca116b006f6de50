# SPDX-License-Identifier: Apache-2.0
"""The seat server in a real OS: sockets, descriptors, and clients that break the rules."""

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest

from help.seat import SeatClient
from help.waiting import until
from hostsim.kmc import door, seats, seatwire
from hostsim.kmc.door import Bucket
from hostsim.kmc.seats import BURST, CHUNK, CLIENTS, NAME, RATE, SeatPort
from hostsim.vm import Vm
from netns import rights

pytestmark = pytest.mark.root

T = TypeVar("T")


class Devices:
    """Cards and input devices that are files in memory; what the port told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.inodes: set[int] = set()

    def open_card(self, name: str, card: str) -> int:
        if card != "card0":
            raise FileNotFoundError(errno.ENOENT, card)
        fd = os.memfd_create(card)
        self.inodes.add(os.fstat(fd).st_ino)
        self.told.append(("open", name, card))
        return fd

    def card_shut(self, name: str, card: str) -> None:
        self.told.append(("shut", name, card))

    def open_event(self, name: str, event: str) -> int:
        self.told.append(("open", name, event))
        return os.memfd_create(event)

    def left(self, name: str) -> None:
        self.told.append(("left", name))

    def settled(self, name: str) -> None:
        self.told.append(("settled", name))

    def switch(self, name: str, session: int) -> None:
        self.told.append(("switch", name, str(session)))

    def offence(self, name: str, why: str) -> None:
        self.told.append(("offence", name, why))


class Served:
    """The seat of one OS, in a loop on a thread of its own."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.devices = Devices()
        self.port = SeatPort(vm.spec.name, vm, self.devices)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.clients: list[SeatClient] = []
        self.do(self.port.open)

    def do(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def client(self) -> SeatClient:
        made = SeatClient(self.vm)
        self.clients.append(made)
        return made

    def active(self) -> SeatClient:
        """A client that has the seat, of an OS in the foreground."""
        self.do(self.port.enable)
        made = self.client()
        made.order("seat")
        made.heard("enabled")
        return made

    def offences(self) -> list[str]:
        return [one[2] for one in self.devices.told if one[0] == "offence"]

    def close(self) -> None:
        for client in self.clients:
            client.end()
        self.do(self.port.close)
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_default_executor(), self.loop).result(
            20
        )
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


@pytest.fixture
def served(make_vm: Callable[..., Vm]) -> Iterator[Served]:
    """Also: no descriptor stays (`make_vm`)."""
    made = Served(make_vm("work", os=True))
    with contextlib.closing(made):
        yield made


def test_a_client_has_its_devices_for_a_turn(served: Served) -> None:
    client = served.client()
    client.order("seat")
    assert client.asked("ping") == "pong"
    assert "opened" not in client.lines  # held back
    served.do(served.port.enable)
    client.heard("enabled")
    assert client.lines[-2:] == ["opened", "enabled"]
    assert client.asked("open /dev/dri/card0").startswith("device 1 ")
    assert client.asked("open /dev/input/event7").startswith("device 2 ")
    assert client.asked("open /dev/dri/card9") == f"error {errno.ENOENT}"
    assert client.asked("open /etc/shadow") == f"error {errno.ENOENT}"
    fd = int(client.lines[-4].split()[2])
    inode = os.stat(f"/proc/{client.process.pid}/fd/{fd}").st_ino
    assert inode in served.devices.inodes
    served.do(served.port.ask)
    until(lambda: not served.do(lambda: served.port.leaving), 20, "acknowledged")
    served.do(served.port.disable)
    assert client.asked("open /dev/dri/card0") == f"error {errno.EPERM}"
    served.do(served.port.enable)
    client.heard("enabled", 2)
    client.order("switch 2")
    until(lambda: ("switch", "work", "2") in served.devices.told, 20, "the wish for another OS")
    client.end()
    until(lambda: ("left", "work") in served.devices.told, 20, "the seat is free")
    assert ("shut", "work", "card0") in served.devices.told


def test_a_client_that_does_not_acknowledge_loses_its_rights_all_the_same(served: Served) -> None:
    client = served.active()
    assert client.asked("deaf") == "deaf"
    served.do(served.port.ask)
    client.heard("disabled")
    assert served.do(lambda: served.port.leaving)
    served.do(served.port.disable)
    assert not served.do(lambda: served.port.leaving)
    assert client.asked("open /dev/dri/card0") == f"error {errno.EPERM}"


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ("raw 6300 0000", "there is no message 99"),
        ("raw 0700 ffff", "a message of 65535 bytes"),
        ("raw 0300 0200 0000", "another length"),
        ("seat", "a second OPEN_SEAT"),
        ("flood 200000", ""),  # too much, or nothing read of what is answered
    ],
)
def test_who_breaks_the_rules_is_cut_off_and_the_next_one_served(
    served: Served, order: str, why: str
) -> None:
    client = served.active()
    assert client.asked("open /dev/dri/card0").startswith("device")
    client.order(order)
    until(lambda: any(why in one for one in served.offences()), 20, why)
    client.heard("gone")
    until(lambda: ("left", "work") in served.devices.told, 20, "the seat is free")
    after = served.client()
    after.order("seat")
    after.heard("enabled")


FLOODS = """
import socket, struct, sys, time
count, heard, begun = int(sys.argv[1]), 0, time.monotonic()
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/seatd.sock")
    try:
        while heard < count:
            sock.sendall(struct.pack("=HH", 7, 0) * 100)
            left = 400
            while left:
                some = sock.recv(left)
                if not some:
                    raise OSError
                left -= len(some)
            heard += 100
    except OSError:
        pass
print(heard, time.monotonic() - begun)
"""


@pytest.mark.parametrize("defended", [True, False])
def test_a_client_that_reads_its_answers_says_no_more_than_others(
    served: Served, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Defence: messages a second are counted, however many of them come at once."""
    most = 50_000
    if not defended:
        monkeypatch.setattr(Bucket, "take", lambda *_: True)
    said = served.vm.run([sys.executable, "-c", FLOODS, str(most)]).stdout.split()
    heard, took = int(said[0]), float(said[1])
    if defended:
        assert heard < BURST + RATE * took + CHUNK
        assert served.offences() == [f"more than {RATE:g} messages a second"]
    else:
        assert heard == most
    assert served.client().asked("ping") == "pong"


@pytest.mark.parametrize("defended", [True, False])
def test_who_connects_again_and_again_waits_at_the_door(
    served: Served, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Defence: new connections of an OS a second (`door`)."""
    served.do(served.port.close)
    monkeypatch.setattr(door, "RATE", 0.0)
    monkeypatch.setattr(door, "BURST", 2.0 if defended else 1000.0)
    turned: list[int] = []
    take = Bucket.take

    def counted(bucket: Bucket, now: float, count: int = 1) -> bool:
        taken = take(bucket, now, count)
        turned.extend([] if taken else [count])
        return taken

    served.do(served.port.open)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "take", counted)
        for _ in range(2):
            client = served.client()
            assert client.asked("ping") == "pong"
            client.end()
        late = served.client()  # connected, as far as the kernel goes
        late.order("ping")
        if defended:
            until(lambda: len(turned) > 2, 20, "it is looked at again")
            assert "pong" not in late.lines
        else:
            late.heard("pong")
            assert turned == []
        patch.setattr(Bucket, "take", lambda *_: True)
        late.heard("pong")
    assert served.offences() == []


@pytest.mark.parametrize("defended", [True, False])
def test_input_devices_that_are_still_being_closed_count(
    served: Served, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Defence: an OS has no more of them than of open ones, and nobody else waits behind them."""
    monkeypatch.setattr(seats, "DEVICES_MAX", 4 if defended else 1000)
    client = served.active()
    gate = threading.Event()
    try:
        for _ in range(seats.CLOSERS):  # as if each close took the kernel long
            seats.closers.submit(gate.wait, 20)
        for number in range(1, 5):
            assert client.asked("open /dev/input/event7").startswith(f"device {number} ")
            assert client.asked(f"close {number}") == "closed"
        answer = client.asked("open /dev/input/event7")
        assert (answer == f"error {errno.EMFILE}") is defended, answer
        waits = asyncio.run_coroutine_threadsafe(_another(served.loop), served.loop)
        assert waits.result(20) == 1
    finally:
        gate.set()
    until(
        lambda: client.asked("open /dev/input/event7").startswith("device "), 20, "room once more"
    )


async def _another(loop: asyncio.AbstractEventLoop) -> int:
    """What else the daemon has done in threads."""
    return await loop.run_in_executor(None, int, "1")


def test_half_a_message_keeps_nobody_waiting(served: Served) -> None:
    half = served.active()
    half.order("raw 0300 0e")
    other = served.client()
    assert other.asked("ping") == "pong"
    half.order("raw 00 0c00 2f6465762f696e7075742f00")
    half.heard(f"error {errno.ENOENT}")


SENDS = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
    sock.connect("/run/seatd.sock")
    try:
        socket.send_fds(sock, [bytes(3)], [one.fileno()] * 253)
    except OSError as error:
        print(type(error).__name__)
    else:
        print("cut off" if sock.recv(1) == b"" else "served")
"""


@pytest.mark.parametrize("kernel", ["as it is", "before 6.16"])
def test_descriptors_that_come_along(
    make_vm: Callable[..., Vm], monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """The kernel closes 253 packet sockets in 4 s: not in the loop. Defences: the kernel refuses
    them; or else a thread of its own has them."""
    closed: list[str] = []
    close = rights.close

    def told(fds: Sequence[int]) -> None:
        closed.append(threading.current_thread().name)
        close(fds)

    monkeypatch.setattr(rights, "close", told)
    if kernel != "as it is":
        monkeypatch.setattr(rights, "SO_PASSRIGHTS", 0x7FFF)
    with contextlib.closing(Served(make_vm("work", os=True))) as served:
        said = served.vm.run([sys.executable, "-c", SENDS]).stdout.decode().strip()
        if said == "cut off":
            until(lambda: closed == ["closer"], 20)
            assert served.offences() == ["descriptors came along"]
        else:
            assert (said, closed, served.offences()) == ("PermissionError", [], [])
        assert kernel == "as it is" or said == "cut off"
        assert served.client().asked("ping") == "pong"
    until(lambda: served.port._closer.idle, 20)


def test_an_os_has_few_connections(served: Served) -> None:
    here = [served.client() for _ in range(CLIENTS)]
    extra = served.client()
    extra.heard("gone")
    assert here[-1].asked("ping") == "pong"


def test_what_is_in_the_way_of_the_socket_is_the_oss_own_affair(make_vm: Callable[..., Vm]) -> None:
    vm = make_vm("work", os=True)
    assert vm.run(["mkdir", "-p", f"/run/{NAME}/x"]).returncode == 0
    served = Served(vm)
    with contextlib.closing(served):
        served.do(served.port.enable)
        served.do(served.port.disable)


def test_the_largest_message_is_what_it_says() -> None:
    assert seatwire.BODY_MAX == 2 + seatwire.PATH_MAX


@pytest.mark.parametrize("request_", [0xC01C64AD, 0xC06864CE, 0x000001AD, 0x1FFFFFFCE])
def test_no_os_asks_for_any_buffer_of_the_card(make_vm: Callable[..., Vm], request_: int) -> None:
    """GETFB and GETFB2 give a master any buffer, also another OS's that is not shown. DRM looks at
    the number of a request only. Outside of a VM the same request goes through to the file."""
    asks = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(256)
fd = os.open("/dev/null", os.O_RDWR)
libc.ioctl(fd, ctypes.c_ulong({request_}), room)
print(ctypes.get_errno())
"""
    words = [sys.executable, "-c", asks]
    assert subprocess.run(words, capture_output=True, check=True).stdout == b"%d\n" % errno.ENOTTY
    assert make_vm(os=True).run(words).stdout == b"%d\n" % errno.EACCES
