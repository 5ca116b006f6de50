# SPDX-License-Identifier: Apache-2.0
"""A wheel in a new environment outside the checkout: nothing of the checkout is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin of an environment that has the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    bin_here = Path(sys.executable).parent
    build = ("pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, ROOT)
    run(
        folder, bin_here / build[0], *build[1:], f"--config-settings=build-dir={folder / 'build'}",
        env=os.environ | {"PATH": f"{bin_here}:{os.environ['PATH']}"},
    )  # fmt: skip
    (wheel,) = folder.glob("hostsim-*.whl")
    run(folder, "/usr/bin/env", sys.executable, "-m", "venv", folder / "venv")
    new = folder / "venv/bin"
    run(folder, new / "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    here = run(folder, sys.executable, "-c", "import pyroute2; print(pyroute2.__path__[0])")
    there = run(
        folder, new / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
    )
    borrowed = Path(there.strip()) / "borrowed.pth"
    borrowed.write_text(f"{Path(here.strip()).parent}\n")
    return new


def run(cwd: Path, *words: str | Path, env: dict[str, str] | None = None) -> str:
    """What it printed; it must not fail."""
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_it_is_the_wheel_that_runs(elsewhere: Path, tmp_path: Path) -> None:
    for module in ("hostsim", "netns", "cext"):
        said = run(
            tmp_path, elsewhere / "python", "-c", f"import {module}; print({module}.__file__)"
        )
        assert said.startswith(str(elsewhere.parent)), said
    assert run(tmp_path, elsewhere / "hostsim", "--version").startswith("hostsim ")
    said = run(tmp_path, elsewhere / "python", "-m", "hostsim", "--version")
    assert said.startswith("hostsim ")
    assert any((elsewhere.parent / "lib").rglob("hostsim/py.typed"))


def test_a_host_comes_up_from_it(elsewhere: Path, tmp_path: Path) -> None:
    run(tmp_path, elsewhere / "hostsim", "check")
    run(tmp_path, elsewhere / "hostsim", "up", "edge")
    try:
        fetch = ("exec", "client", "--", "curl", "-sS", "--max-time", "10", "http://198.18.0.20/")
        assert "Hello" in run(tmp_path, elsewhere / "hostsim", *fetch)
    finally:
        run(tmp_path, elsewhere / "hostsim", "down", "edge")
