# SPDX-License-Identifier: Apache-2.0
"""A VM's own files of /etc: those of /etc/netns/NAME, and links into the machine's /run."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostsim import etc
from hostsim.errors import HostsimError
from hostsim.vm import Vm

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
TEXT = "nameserver 198.18.0.20\n"


@pytest.fixture
def named(host_name: str) -> Iterator[Path]:
    """/etc/netns/NAME of a VM `a`."""
    folder = Path(f"/etc/netns/hs-{host_name}-a")
    there = folder.parent.exists()
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)
    if not there:
        folder.parent.rmdir()


@pytest.fixture
def linked() -> Iterator[str]:
    """A link of /etc that leads into the machine's /run."""
    target, link = Path("/run/hostsim-test-linked"), Path("/etc/hostsim-test-linked")
    target.write_text("the machine's\n")
    target.chmod(0o644)
    link.symlink_to(target)
    yield str(link)
    link.unlink()
    target.unlink()


def cat(vm: Vm, path: str) -> tuple[int, str]:
    done = vm.run(["cat", path])
    return done.returncode, done.stdout.decode()


def test_it_has_the_files_of_etc_netns(named: Path, make_vm: MakeVm) -> None:
    (named / "resolv.conf").write_text(TEXT)
    before = Path("/etc/resolv.conf").read_bytes()
    one, two = make_vm("a"), make_vm("b")
    assert cat(one, "/etc/resolv.conf") == (0, TEXT)
    assert cat(two, "/etc/resolv.conf") == (0, before.decode())
    one.run(["sh", "-c", "echo x > /etc/resolv.conf"])
    assert (named / "resolv.conf").read_text() == TEXT
    assert Path("/etc/resolv.conf").read_bytes() == before


def test_what_is_no_file_there_is_refused_by_name(named: Path, make_vm: MakeVm) -> None:
    (named / "conf.d").mkdir()
    with pytest.raises(HostsimError, match=r"conf\.d: not a file"):
        make_vm("a")


def test_a_link_into_the_machines_run_leads_somewhere(linked: str, vm: Vm) -> None:
    assert cat(vm, linked) == (0, "the machine's\n")
    vm.run(["sh", "-c", f"echo x > {linked}"])
    assert Path(linked).read_text() == "the machine's\n"


def test_a_link_to_what_not_everybody_may_read_leads_nowhere(linked: str, make_vm: MakeVm) -> None:
    Path(linked).chmod(0o600)
    assert cat(make_vm(), linked)[0] == 1
    assert linked.rpartition("/")[2] not in dict(etc.links())
