# SPDX-License-Identifier: Apache-2.0
"""The examples that ship pass, as their reader runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hostsim

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

FOLDER = Path(hostsim.__file__).parent / "examples"


def test_every_example_passes(tmp_path: Path) -> None:
    files = sorted(FOLDER.glob("test_*.py"))
    assert len(files) == 8
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*words, *map(str, files)],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "10 passed" in done.stdout
