# SPDX-License-Identifier: Apache-2.0
"""cgroup limits hold, through whichever tree has the controller here."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cext.bpf import objects as bpf
from help.programs import program
from hostsim import fence
from hostsim.errors import HostsimError
from hostsim.fence import limits
from hostsim.model import VmSpec
from hostsim.vm import Vm
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


def test_vms_end_first_if_the_machine_has_no_memory(vm: Vm) -> None:
    started = vm.popen(["sleep", "60"])
    scores = [Path(f"/proc/{pid}/oom_score_adj") for pid in (vm.pid, started.pid)]
    assert [score.read_text() for score in scores] == ["500\n", "500\n"]
    assert Path("/proc/self/oom_score_adj").read_text() != "500\n"
    held = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
    if held >> 24 & 1:  # CAP_SYS_RESOURCE
        undone = vm.run(["sh", "-c", "echo 0 > /proc/1/oom_score_adj"])
        assert undone.returncode != 0


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


@pytest.mark.parametrize("kind", [{}, {"os": True}, {"endpoint": True}])
def test_a_vm_has_limits_that_nobody_gave_it(make_vm: MakeVm, kind: dict[str, bool]) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    vm = make_vm(**kind)
    assert vm.limits.cpus is None
    assert 0 < (vm.limits.memory or 0) <= machine // 2
    assert 0 < (vm.limits.pids or 0) <= 4096
    held = {}
    for path in vm.cgroups:
        for name in ("memory.max", "memory.limit_in_bytes", "pids.max"):
            if (path / name).exists():
                held[name.partition(".")[0]] = (path / name).read_text().strip()
    page = os.sysconf("SC_PAGE_SIZE")
    assert held == {
        "memory": str((vm.limits.memory or 0) // page * page),
        "pids": str(vm.limits.pids),
    }


BOMB = """
import os, signal
count = 0
while True:
    try:
        if os.fork() == 0:
            signal.pause()
        count += 1
    except OSError as error:
        print(count, error.errno, flush=True)
        break
input()
"""


def test_a_fork_bomb_costs_its_vm_alone(make_vm: MakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops at its own limit, and another VM, and the machine, start what they like."""
    few = fence.share(1 << 30, 1000)
    monkeypatch.setattr(fence, "_default_limits", lambda: few)
    bomb, other = make_vm("bomb"), make_vm("other")
    started = bomb.popen([sys.executable, "-S", "-c", BOMB], stdin=-1, stdout=-1)
    assert started.stdout is not None
    count, why = map(int, started.stdout.readline().split())
    assert why == errno.EAGAIN
    assert count == (bomb.limits.pids or 0) - 2  # process 1, and the one that forks
    with pytest.raises(HostsimError, match="unavailable"):
        bomb.popen(["true"])
    assert other.run(["sh", "-c", "sleep 0 & wait; echo fine"]).stdout == b"fine\n"
    bomb.stop()


def test_a_memory_hog_costs_its_vm_alone(make_vm: MakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own memory, and by each file system in memory that it has."""
    few = cgroup.Limits(memory=96 << 20, pids=100)
    monkeypatch.setattr(fence, "_default_limits", lambda: few)
    hog, other = make_vm("hog"), make_vm("other")
    assert hog.run(program("tries", "allocate", 200 << 20)).returncode == -signal.SIGKILL
    for place in ("/run", "/dev/shm", "/var/tmp"):
        done = hog.run(["dd", "if=/dev/zero", f"of={place}/x", "bs=1M", "count=200"])
        assert done.returncode != 0, place
        assert hog.alive
        assert other.run(program("tries", "allocate", 16 << 20)).returncode == 0
        assert hog.run(["rm", f"{place}/x"]).returncode == 0


def test_a_share_of_the_machine() -> None:
    gib = 1 << 30
    assert fence.share(16 * gib, 32768) == cgroup.Limits(4 * gib, None, 4096)
    assert fence.share(gib // 2, 4000) == cgroup.Limits(gib // 4, None, 500)
    assert fence.share(128 << 20, 100) == cgroup.Limits(64 << 20, None, 256)


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
