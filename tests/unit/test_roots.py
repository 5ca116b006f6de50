# SPDX-License-Identifier: Apache-2.0
"""A VM's own root in the host file, and the ids that such VMs take."""

from pathlib import Path

import pytest

from hostsim import idranges
from hostsim.errors import HostFileError, HostsimError
from hostsim.hostfile.file import parse
from hostsim.model import RootSpec

VM = '[host]\nname = "x"\n[[vm]]\nname = "a"\n'


def root(text: str) -> RootSpec | None:
    return parse(VM + text, Path("/srv/host/x.toml")).vms[0].root


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", None),
        ('root = "trixie"', RootSpec("trixie", image=True)),
        ('root = "./r"', RootSpec("/srv/host/r")),
        ('root = "/srv/a.erofs"', RootSpec("/srv/a.erofs")),
        ('root = "a.squashfs"', RootSpec("/srv/host/a.squashfs")),
        ('root = "a.tar.zst"', RootSpec("/srv/host/a.tar.zst")),
        (
            'root = "./r"\nkeep = "k"\nboot = true\nusers = "machine"',
            RootSpec("/srv/host/r", keep="/srv/host/k", boot=True, users="machine"),
        ),
        ('root = "./r"\ncontainers = true', RootSpec("/srv/host/r", containers=True)),
    ],
)
def test_what_it_means(text: str, found: RootSpec | None) -> None:
    assert root(text) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('keep = "k"', "keep without root"),
        ("boot = true", "boot without root"),
        ('root = "./r"\nboot = true\nshare = ["/tmp"]', "share has '/tmp'"),
        ('users = "own"', "users without root"),
        ("containers = true", "containers without root"),
        ('root = "./r"\nusers = "machine"\ncontainers = true', 'containers with users = "machine"'),
        ('root = ""', "root = ''"),
        ('root = "../../.."', "the machine's files"),
        ('root = "Up"', "root = 'Up' is not allowed"),
        ('root = "./r"\nnf = "forward"', "both nf and root"),
        ('root = "./r"\nfiles = "private"', "both root and files"),
        ('root = "./r"\nkeep = "r/k"', "is in the root"),
        ('root = "./r"\nboot = 1', "boot = 1"),
        ('root = "./r"\nusers = "mine"', "users is one of own, machine"),
    ],
)
def test_what_cannot_be(text: str, why: str) -> None:
    with pytest.raises(HostFileError, match=why):
        root(text)


def test_two_vms_do_not_keep_in_one_directory() -> None:
    text = VM + 'root = "./r"\nkeep = "k"\n[[vm]]\nname = "b"\nroot = "./r"\nkeep = "./k"\n'
    with pytest.raises(HostFileError, match="keep"):
        parse(text, Path("/srv/host/x.toml"))


def test_ids_are_taken_once_and_given_back(tmp_path: Path) -> None:
    group = tmp_path / "group"
    one = idranges.take(group, tmp_path / "ids")
    two = idranges.take(group, tmp_path / "ids")
    assert (one.base, two.base) == (0x70000000, 0x70010000)
    one.close()
    assert idranges.take(group, tmp_path / "ids").base == one.base
    two.close()
    two.close()


def test_ids_of_a_group_that_is_still_there_are_not_free(tmp_path: Path) -> None:
    """Its daemon was killed, and its VM was not."""
    folder, group = tmp_path / "ids", tmp_path / "group"
    folder.mkdir()
    group.mkdir()
    (folder / str(idranges.FIRST)).write_text(str(group))
    one = idranges.take(group, folder)
    assert one.base == idranges.FIRST + idranges.COUNT
    one.close()
    group.rmdir()
    again = idranges.take(group, folder)
    assert again.base == idranges.FIRST
    again.close()
    assert not folder.exists()


def test_ids_of_the_machines_users_are_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "subuid"
    taken.write_text(f"# none\nme:{idranges.FIRST + 70000}:1\nbad:x:y\n")
    monkeypatch.setattr(idranges, "SUBORDINATE", (taken, tmp_path / "missing"))
    one, two = (idranges.take(tmp_path / "g", tmp_path / "ids") for _ in range(2))
    assert (one.base, two.base) == (idranges.FIRST, idranges.FIRST + 2 * idranges.COUNT)
    monkeypatch.setattr(idranges, "RANGES", 1)
    with pytest.raises(HostsimError, match="all 1 ranges"):
        idranges.take(tmp_path / "g", tmp_path / "ids")
    one.close()
    two.close()
