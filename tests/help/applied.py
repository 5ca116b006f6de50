# SPDX-License-Identifier: Apache-2.0
"""Hosts that an apply changes, by the Python API.

files = Files(HEAD)
with files.up(text, folder) as host: files.apply(host, other, folder)
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostsim import Host


class Files:
    """Host files that begin with `head`."""

    def __init__(self, head: str) -> None:
        self._head = head

    @contextlib.contextmanager
    def up(self, text: str, folder: Path) -> Iterator[Host]:
        """A host that is up; its log is printed at the end."""
        (folder / "host.toml").write_text(self._head + text)
        with Host(folder / "host.toml") as host:
            try:
                yield host
            finally:
                print(host.log(1000))

    def apply(self, host: Host, text: str, folder: Path, **words: Any) -> Any:
        """What `Host.apply` answers."""
        (folder / "next.toml").write_text(self._head + text)
        return host.apply(folder / "next.toml", **words)
