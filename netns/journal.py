# SPDX-License-Identifier: Apache-2.0
"""The journal of a host: every kernel object is written down before it is made.

One JSON object a line, appended and never rewritten while the host lives, so that whoever finds
the file after a crash knows all that may exist, and removes just that: by journal, never by name
pattern. `undo` walks it backwards; removing what was never made, or is gone, is no error.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from netns import cgroup, console, leds, namespace, nodes, uplinks


def _give_back(node: str, key: str, state: str) -> None:
    from netns import evstate  # evdev: only if there was equipment

    evstate.give_back(node, key, state)


def _loop_back(number: str) -> None:
    from netns import sound

    sound.back(number)


def _mixer_back(card: str, state: str) -> None:
    from netns import sound

    sound.mixer_back(card, state)


_UNDO: dict[str, Callable[..., None]] = {
    "netns": lambda name, inode="": namespace.remove(name, inode),
    "cgroup": lambda path: cgroup.remove(Path(path)),
    "console": lambda path: console.restore(Path(path)),
    "loop": lambda number: _loop_back(number),
    "mixer": lambda card, state: _mixer_back(card, state),
    "device": lambda node, key, state: _give_back(node, key, state),
    "nodes": lambda node: nodes.back(node),
    "led": lambda file, trigger: leds.join({file: trigger}),
    "uplink": lambda name, netns, nic, number="0": uplinks.give_back(name, netns, nic, number),
}
"""What `add` may write, and how `undo` removes it."""


class Journal:
    """The journal in `path`, created if missing. Owns the descriptor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, kind: str, **what: str) -> None:
        """Write an object down, before it is made. Thread-safe. Raises OSError (ENOSPC), with
        nothing written: half a line would hide all that come after it."""
        self.add_all(kind, [what])

    def add_all(self, kind: str, objects: Sequence[Mapping[str, str]]) -> None:
        """`add` of several objects of a kind, all or none."""
        if kind not in _UNDO:
            raise ValueError(f"the journal knows no {kind!r}")
        lines = "".join(json.dumps({"kind": kind, **what}) + "\n" for what in objects).encode()
        with self._writing:
            before = os.fstat(self._fd).st_size
            if os.write(self._fd, lines) != len(lines):
                os.ftruncate(self._fd, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The entries, oldest first; a last line cut short by a crash stands for nothing made."""
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def undo(path: Path) -> list[str]:
    """Remove everything in the journal, newest first. Returns what resisted, one line each.
    A namespace with an uplink that resisted stays."""
    failures: list[str] = []
    kept: set[str] = set()
    entries = list(read(path))
    for entry in reversed(entries):
        what = {key: value for key, value in entry.items() if key != "kind"}
        if entry["kind"] == "netns" and what["name"] in kept:
            continue
        try:
            _UNDO[entry["kind"]](**what)
        except OSError as error:
            failures.append(
                f"{entry['kind']} {next(iter(what.values()))}: {error.strerror or error}"
            )
            kept.add(what.get("netns", ""))
    return failures
