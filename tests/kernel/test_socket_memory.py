# SPDX-License-Identifier: Apache-2.0
"""What a VM's sockets hold of the kernel's memory, beside what its memory limit counts, has a
bound; it has none without the programs."""

import contextlib
import itertools
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help import cli
from help.cli import HOSTSIM
from help.net import endpoint
from help.programs import program
from help.waiting import until
from hostsim import fence
from hostsim.vm import Vm
from netns import cgroup, sockets

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

MakeVm = Callable[..., Vm]
MIB = 1 << 20
MOST = fence.SOCKETS_LEAST
NAME = "hssm"


@contextlib.contextmanager
def holding(vm: Vm, *words: str | int) -> Iterator[tuple[int, str]]:
    """While a program in the VM holds what it got: how many, and why no more."""
    started = vm.popen(program("holds", *words), stdin=-1, stdout=-1)
    assert started.stdout is not None
    count, why = started.stdout.readline().split()
    try:
        yield int(count), why.decode()
    finally:
        started.close()


@pytest.fixture(scope="module")
def walks() -> bool:
    """Whether this kernel lets us walk over sockets; if not, `hostsim check` says so."""
    return sockets.walk_refused() is None


@pytest.fixture
def emptied(make_vm: MakeVm, walks: bool) -> Callable[[Vm], Vm]:
    """The VM once what its sockets held is free again: the kernel ends them a little after their
    last descriptor. If that stays charged here, another VM of that memory."""
    names = (f"next{number}" for number in itertools.count())

    def wait(vm: Vm) -> Vm:
        def free() -> bool:
            sockets.settle()
            return vm.sockets.used < MIB

        if not walks:
            assert vm.sockets.used >= MIB
            return make_vm(next(names), memory=vm.spec.memory)
        until(free, 20, "its sockets have ended")
        return vm

    return wait


@pytest.mark.parametrize("kind", [pytest.param("packet", marks=pytest.mark.stock), "send"])
def test_rings_of_packet_sockets(
    make_vm: MakeVm, emptied: Callable[[Vm], Vm], walks: bool, kind: str
) -> None:
    vm = make_vm(memory=64 * MIB)
    assert vm.sockets.most == MOST
    with holding(vm, kind, 4 * MIB, 100) as (count, why):
        assert why == "ENOMEM"
        assert 1 <= count <= MOST // (4 * MIB)
        assert count * 4 * MIB <= vm.sockets.used <= MOST
        with contextlib.nullcontext() if walks else pytest.raises(PermissionError):
            sockets.settle()  # they live: nothing is free again
        assert count * 4 * MIB <= vm.sockets.used <= MOST
    with holding(emptied(vm), kind, 4 * MIB, 100) as (again, _):
        assert again == count


def test_rings_without_the_bound(make_vm: MakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets.SocketBudget, "attach", lambda *_: None)
    vm = make_vm(memory=64 * MIB)
    with holding(vm, "packet", 4 * MIB, 2 * MOST // (4 * MIB)) as (count, why):
        assert (count, why) == (2 * MOST // (4 * MIB), "all")


def test_one_ring_beyond_it_is_none(make_vm: MakeVm) -> None:
    with holding(make_vm(memory=64 * MIB), "packet", MOST + (1 << 16), 1) as said:
        assert said == (0, "ENOMEM")


@pytest.mark.parametrize("kind", ["threads", "same"])
def test_many_threads_get_no_more(make_vm: MakeVm, kind: str) -> None:
    vm = make_vm(memory=128 * MIB)
    with holding(vm, kind, MIB, 100) as (count, _):
        assert 1 <= count <= vm.sockets.most // MIB
        if kind == "same":
            assert count == 1


@pytest.mark.stock
def test_rings_and_umems_of_af_xdp(
    make_vm: MakeVm, emptied: Callable[[Vm], Vm], monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = make_vm(memory=64 * MIB)
    with holding(vm, "xdp", 1 << 10, 100) as (count, why):
        assert 1 <= count < 100
        assert why == "ENOMEM"
        assert vm.sockets.used <= MOST
    vm = emptied(vm)
    with holding(vm, "umem", 8 * MIB, 1) as said:
        assert said == (1, "all")
    vm = emptied(vm)
    with holding(vm, "umem", 40 * MIB, 1) as said:
        assert said == (0, "ENOMEM")
    monkeypatch.setattr(sockets.SocketBudget, "attach", lambda *_: None)
    with holding(make_vm("without", memory=64 * MIB), "xdp", 1 << 10, 100) as said:
        assert said == (100, "all")


def test_queues_that_are_asked_for(make_vm: MakeVm) -> None:
    vm = make_vm(memory=64 * MIB)
    longest = 2 * int(Path("/proc/sys/net/core/rmem_max").read_text())
    with holding(vm, "queues", 1 << 30, 900) as (count, why):
        assert why == "ENOBUFS"  # a shorter queue, as the kernel gives one: no program is refused
        assert 1 <= count <= MOST // longest
        with holding(vm, "queues", 1 << 30, 900) as short:
            assert short == (900, "all")
        assert vm.sockets.used <= MOST


def test_groups_of_packet_sockets(make_vm: MakeVm) -> None:
    vm = make_vm(memory=64 * MIB)
    with holding(vm, "groups", 1 << 16, 900) as (count, why):
        assert why == "ENOMEM"
        assert 1 <= count <= MOST // (8 << 16)


@pytest.mark.stock
def test_sockets_are_charged_with_their_queue(make_vm: MakeVm) -> None:
    """If the kernel runs programs at the entry of its functions; else `hostsim check` says so."""
    vm = make_vm(memory=64 * MIB)
    queue = int(Path("/proc/sys/net/core/rmem_default").read_text())
    with holding(vm, "sockets", 0, 900) as (count, why):
        if sockets.counts_births():
            assert why == "ENOMEM"
            assert 1 <= count <= MOST // queue
        else:
            assert (count, why) == (900, "all")


@pytest.mark.parametrize("kind", ["narrow"] if platform.machine() == "x86_64" else [])
def test_the_calls_of_32_bits_go_no_other_way(vm: Vm, kind: str) -> None:
    """In a VM. Outside of one they do: it is the filter that closes them."""
    free = subprocess.run(
        program("holds", kind, MIB, 1), stdin=subprocess.DEVNULL, capture_output=True
    )
    assert free.stdout == b"1 all\n", free
    with holding(vm, kind, MIB, 1) as said:
        assert said == (0, "ENOMEM")


def test_an_option_longer_than_a_page(vm: Vm) -> None:
    """Linux before 6.5 refuses those that a program was asked about, and did not say it passes."""
    with holding(vm, "long", 5000, 1) as said:
        assert said == (1, "all")


def test_a_vm_that_is_stopped_and_started(make_vm: MakeVm) -> None:
    vm = make_vm(memory=64 * MIB)
    with holding(vm, "packet", 4 * MIB, 100) as (count, _):
        pass
    vm.stop()
    assert vm.sockets.used == 0
    other = make_vm("other", memory=64 * MIB)
    with holding(other, "packet", 4 * MIB, 100) as (again, _):
        assert again == count


def test_one_ring_after_another(tmp_path: Path, walks: bool) -> None:
    """A running host has those that ended taken off, before a VM waits for it long."""
    file = f"""[host]
name = "{NAME}"
[[vm]]
name = "a"
memory = "64M"
{endpoint("end", "198.18.94.10/24")}"""
    words = [str(word) for word in program("holds", "again", 8 * MIB, 20)]
    with cli.host(file, tmp_path):
        done = cli.run(HOSTSIM, "--host", NAME, "exec", "a", "--", *words)
        if not walks:
            assert done.stdout == f"{MOST // (8 * MIB) - 1} ENOMEM\n"
            return
        assert done.stdout == "20 all\n"
        (vm,) = cli.ask("--host", NAME, "status")["vms"]
        assert vm["sockets"]["most"] == MOST
        assert 0 <= vm["sockets"]["used"] <= MOST
        words = [str(word) for word in program("holds", "packet", 4 * MIB, 2)]
        with subprocess.Popen(
            (HOSTSIM, "--host", NAME, "exec", "a", "--", *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as held:
            assert held.stdout is not None
            assert held.stdout.readline().split()[0] == b"2"
            (vm,) = cli.ask("--host", NAME, "status")["vms"]
            assert 8 * MIB <= vm["sockets"]["used"] <= MOST
            held.terminate()


def test_the_bound_of_a_vm() -> None:
    assert fence.sockets(cgroup.Limits(1 << 30)) == 1 << 29
    assert fence.sockets(cgroup.Limits(MIB)) == fence.sockets(cgroup.Limits()) // 4 == MOST
