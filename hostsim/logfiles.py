# SPDX-License-Identifier: Apache-2.0
"""The files in a host's folder that keep what a VM's program and hooks have written. Pure.

hostsim/logs.py writes them, hostsim/cli/written.py reads them.
"""

from pathlib import Path


def newest(folder: Path, vm: str) -> Path:
    """The file of its newest bytes."""
    return folder / f"{vm}.log"


def former(path: Path) -> Path:
    """The file of the bytes before those in `path`, which is `newest`."""
    return path.with_suffix(".log.1")
