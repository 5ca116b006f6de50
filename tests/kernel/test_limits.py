"""cgroup limits hold, through whichever tree has the controller here."""

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cext.bpf import objects as bpf
from help.programs import program
from hostsim.errors import HostsimError
from hostsim.model import VmSpec
from hostsim.vm import Vm, limits
from netns import cgroup
from netns.cgroup import Cgroup, Layout

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]


def test_memory(make_vm: MakeVm) -> None:
    vm = make_vm(memory=48 << 20)
    within = vm.run(program("tries", "allocate", 16 << 20))
    assert within.stdout == f"{16 << 20}\n".encode()
    beyond = vm.run(program("tries", "allocate", 200 << 20))
    assert beyond.returncode == -signal.SIGKILL
    assert vm.alive


def test_pids(make_vm: MakeVm) -> None:
    vm = make_vm(pids=6)
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"
    done = vm.run(["sh", "-c", script])
    assert done.returncode == 2
    assert b"fork" in done.stderr
    assert vm.run(["true"]).returncode == 0


def test_more_programs_than_pids(make_vm: MakeVm) -> None:
    vm = make_vm(pids=2)  # process 1 is one of them
    vm.popen(["sleep", "60"])
    with pytest.raises(HostsimError, match="unavailable"):
        vm.popen(["true"])
    assert vm.alive


def test_cpus(make_vm: MakeVm) -> None:
    vm = make_vm(cpus=0.2)
    assert vm.run(program("tries", "spin", 0.3)).returncode == 0
    counts = [path / "cpu.stat" for path in vm.cgroups]
    throttled = 0
    for path in counts:
        if path.exists():
            stat = dict(line.split() for line in path.read_text().splitlines())
            throttled += int(stat.get("nr_throttled", 0))
    assert throttled > 0


def test_all_limits_from_the_first_instruction(make_vm: MakeVm) -> None:
    """Process 1 and what is started later are in every directory with a limit."""
    vm = make_vm(memory=64 << 20, cpus=0.5, pids=50)
    program = vm.popen(["sleep", "60"])
    for path in vm.cgroups:
        pids = {int(line) for line in (path / "cgroup.procs").read_text().split()}
        assert pids == {vm.pid, program.pid}, path
    vm.stop()
    assert not any(path.exists() or path.parent.exists() for path in vm.cgroups)


def test_no_limit_no_directory(make_vm: MakeVm) -> None:
    assert make_vm().cgroups == (make_vm("b").cgroup.parent / "a",)


def test_a_controller_that_is_nowhere(host_name: str) -> None:
    """Refused with a clear line before anything is made."""
    here = cgroup.layout()
    bare = Layout(here.v2, frozenset(), {})
    spec = VmSpec("a", memory=64 << 20, pids=5)
    assert cgroup.unsupported(limits(spec), bare) == ("memory", "pids")
    group = Cgroup(f"hs-{host_name}/a", limits(spec), bare)
    with pytest.raises(HostsimError, match="no memory and no pids controller"):
        group.make()
    assert not group.path.exists()
    group.remove()


def test_a_kernel_without_device_programs(make_vm: MakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bpf(2) answers there: a clear line, and nothing is left of the VM."""

    def refuse(name: str) -> bpf.Object:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(bpf, "Object", refuse)
    with pytest.raises(HostsimError, match=r"device program: .*CONFIG_CGROUP_BPF"):
        make_vm("b")


def test_what_the_machine_offers_is_supported(host_name: str) -> None:
    assert Vm(host_name, VmSpec("a", memory=1 << 26, cpus=1, pids=9), 1).unsupported_limits() == ()


def test_remove_waits_for_processes_and_not_for_time(make_vm: MakeVm) -> None:
    vm = make_vm(pids=40)
    vm.popen(["sh", "-c", "for i in $(seq 30); do setsid sh -c 'trap \"\" TERM; sleep 60' & done"])
    group = vm.cgroup
    begin = time.monotonic()
    vm.kill()
    vm.stop()
    assert time.monotonic() - begin < cgroup.DEADLINE
    assert not Path(group).exists()
