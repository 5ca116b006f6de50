# SPDX-License-Identifier: Apache-2.0
"""The ends of the logs of a host that is up: what a test's failure on another machine says more."""

from pathlib import Path

LINES = 20
"""Of one log."""
BYTES = 8192
"""That are looked at for them."""
LOGS = 12
"""Of one host: the daemon's, and those of its VMs that wrote last."""


def tails(state: Path) -> str:
    """state: the directory that the host's daemon keeps. What goes meanwhile is left out."""
    found: list[tuple[float, Path]] = []
    for path in (state / "log", *state.glob("*.log"), *state.glob("*/*.log")):
        try:
            found.append((path.stat().st_mtime, path))
        except OSError:
            continue
    newest = [path for _, path in sorted(found, reverse=True)[:LOGS]]
    return "\n".join(f"-- {path}\n{tail(path)}" for path in newest)


def tail(path: Path) -> str:
    """The last LINES of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-LINES:])
    except OSError:
        return ""
