# SPDX-License-Identifier: Apache-2.0
"""The keys of a [[vm]] that give it a root of its own: root, keep, boot, users, containers.

    root(table, folder) -> RootSpec | None   raises HostFileError
    keep_together(vms)                       pairs of names that keep in one directory

`folder`: what relative paths start from. What a path names is looked at when the VM starts.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from os.path import abspath
from pathlib import Path

from hostsim.hostfile.table import Table
from hostsim.model import RootSpec, Users, VmSpec

_IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ALLOWED = 'a directory or an image ("./root", "/srv/os.erofs"), or an image\'s name'


def root(table: Table, folder: Path) -> RootSpec | None:
    """See above."""
    text = _path(table, "root", _ALLOWED)
    keep = _path(table, "keep", "a directory for the changes of this VM alone")
    boot = table.take("boot", bool, "true or false")
    users = table.choice("users", Users, "own")
    containers = table.take("containers", bool, "true or false")
    if text is None:
        for key in ("keep", "boot", "users", "containers"):
            if table.has(key):
                table.fail(f"{key} without root", f"{key} is of a VM with a root of its own")
        return None
    if containers and users == "machine":
        table.fail(
            'containers with users = "machine"',
            "root of a container would be the machine's own: leave users out",
        )
    if table.has("files"):
        table.fail("both root and files", "files says how a VM has the machine's: leave one out")
    named = (
        "/" not in text and Path(text).suffix not in (".erofs", ".squashfs") and ".tar" not in text
    )
    if named and not _IMAGE.fullmatch(text):
        table.fail(f"root = {text!r} is not allowed", f"root is {_ALLOWED}")
    path = text if named else abspath(folder / text)
    if path == "/":
        table.fail('root = "/"', "without root, a VM has the machine's files, behind an overlay")
    kept = None if keep is None else abspath(folder / keep)
    if kept is not None and not named and f"{kept}/".startswith(f"{path}/"):
        table.fail(f"keep = {keep!r} is in the root", "a directory outside of it")
    return RootSpec(path, named, kept, bool(boot), users, bool(containers))


def _path(table: Table, key: str, allowed: str) -> str | None:
    text = table.take(key, str, allowed)
    if text is not None and (not text or "\0" in text):
        table.fail(f"{key} = {text!r} is not allowed", f"{key} is {allowed}")
    return None if text is None else str(text)


def keep_together(vms: Sequence[VmSpec]) -> Iterator[tuple[str, str]]:
    """See above; also if one directory is in the other."""
    kept = [(f"{vm.root.keep}/", vm.name) for vm in vms if vm.root and vm.root.keep]
    for (one, first), (two, second) in combinations(kept, 2):
        if one.startswith(two) or two.startswith(one):
            yield second, first
