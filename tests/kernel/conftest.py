# SPDX-License-Identifier: Apache-2.0
"""VMs for kernel tests: made under a host name of the test's own, and checked to leave no open
file. That nothing else stays is checked for every test, one conftest up."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help import roots
from help.classifier import in_namespace
from hostsim.images import store
from hostsim.model import OsSpec, VmSpec
from hostsim.vm import Vm
from netns.journal import Journal

MakeVm = Callable[..., Vm]


def open_files() -> dict[str, str]:
    """Our descriptors, and what they are."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed them
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root that boots systemd."""
    folder = tmp_path_factory.mktemp("systemd")
    yield roots.systemd(folder)
    shutil.rmtree(folder)


@pytest.fixture
def host_name() -> str:
    """A host name no other test run uses."""
    return f"t{os.getpid()}"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that is closed at the end."""
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def make_vm(host_name: str, journal: Journal) -> Iterator[MakeVm]:
    """make_vm(name, os=False, **spec): a running VM, stopped at the end."""
    vms: list[Vm] = []

    def make(name: str = "a", *, os: bool = False, **spec: object) -> Vm:
        vm = Vm(
            host_name,
            VmSpec(name, os=OsSpec() if os else None, **spec),  # type: ignore[arg-type]
            len(vms) + 1,
        )
        vms.append(vm)
        vm.start(journal)
        return vm

    warm = make("warm")  # what the process opens once and keeps: the init program
    warm.stop()
    before = open_files()
    yield make
    for vm in vms:
        vm.stop()
    assert open_files() == before


@pytest.fixture
def vm(make_vm: MakeVm) -> Vm:
    """A plain running VM named `a`."""
    return make_vm()


@pytest.fixture(scope="module")
def ports() -> Iterator[None]:
    """This thread is in a namespace that has the ports, as the classifier's interfaces."""
    with in_namespace():
        yield


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the images of one test are; nothing but whole images is there at its end."""
    path = tmp_path / "images"
    monkeypatch.setenv(store.ENVIRONMENT, str(path))
    yield path
    if path.is_dir():
        assert not [one for one in path.iterdir() if one.name.startswith(".")]
