# SPDX-License-Identifier: Apache-2.0
"""Which cgroup tree a limit goes through, from what mountinfo says."""

from pathlib import Path

import pytest

from hostsim.errors import HostsimError
from netns.cgroup import Cgroup, Controller, Layout, Limits, parse, unsupported

HYBRID = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw
32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct
33 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 22 0:30 / /mnt/a\\040b rw - cgroup cgroup rw,pids
"""
PURE = "26 22 0:23 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
ALL = Limits(memory=1, cpus=1.0, pids=1)


def test_hybrid() -> None:
    v2, v1 = parse(HYBRID)
    assert v2 == Path("/sys/fs/cgroup/unified")
    assert v1["memory"] == Path("/sys/fs/cgroup/memory")
    assert v1["cpu"] == v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert v1["pids"] == Path("/mnt/a b")


def test_pure() -> None:
    v2, v1 = parse(PURE)
    assert (v2, v1) == (Path("/sys/fs/cgroup"), {})


def test_neither() -> None:
    assert parse("22 1 254:0 / / rw - ext4 /dev/vda rw\n") == (None, {})


@pytest.mark.parametrize(
    ("has", "v1", "expected"),
    [
        ({"memory", "cpu", "pids"}, {}, ()),
        ({"memory", "cpu", "pids"}, {"memory": Path("/m")}, ()),
        (set(), {"memory": Path("/m"), "cpu": Path("/c"), "pids": Path("/p")}, ()),
        ({"pids"}, {"cpu": Path("/c")}, ("memory",)),
        (set(), {}, ("memory", "cpu", "pids")),
    ],
)
def test_unsupported(has: set[str], v1: dict[str, Path], expected: tuple[Controller, ...]) -> None:
    assert unsupported(ALL, Layout(Path("/v2"), frozenset(has), v1)) == expected
    assert unsupported(Limits(), Layout(Path("/v2"), frozenset(has), v1)) == ()


def test_no_v2_tree() -> None:
    with pytest.raises(HostsimError, match="no cgroup v2 tree; mount one"):
        Cgroup("hs-h/a", Limits(), Layout(None, frozenset(), {"pids": Path("/p")}))


def test_v2_is_preferred() -> None:
    layout = Layout(Path("/v2"), frozenset({"memory"}), {"memory": Path("/m")})
    assert layout.where("memory") == "v2"
    assert Cgroup("hs-h/a", Limits(memory=1), layout).v1 == ()


def test_directories_parents_first() -> None:
    both = Path("/cpu,pids")
    layout = Layout(Path("/v2"), frozenset({"memory"}), {"cpu": both, "pids": both})
    group = Cgroup("hs-h/a", ALL, layout)
    assert group.path == Path("/v2/hs-h/a")
    assert group.v1 == (both / "hs-h/a",)
    assert group.directories == (
        Path("/v2/hs-h"),
        both / "hs-h",
        Path("/v2/hs-h/a"),
        both / "hs-h/a",
    )
