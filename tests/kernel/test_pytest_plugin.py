# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, as its user has it: the test that `hostsim new-test` writes, tests that fail,
and what their reports say."""

import subprocess
import sys
from pathlib import Path

import pytest

from help.cli import hostsim

pytestmark = pytest.mark.root

HEAD = """
import pytest
from hostsim import Host

TEXT = '''
[host]
name = "plug"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "fw"
[[route]]
match = { proto = "icmp" }
through = ["fw"]
'''
pytestmark = pytest.mark.hostsim(TEXT)

def ping(host):
    words = ("ping", "-q", "-i", "0.01", "-W", "1", "-c", "20", "198.18.0.20")
    return host["client"].run(*words).returncode
"""


def outcome(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """What pytest says of a file with this body."""
    (folder / "test_it.py").write_text(HEAD + body)
    return run(folder, "test_it.py")


def run(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    words = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        file,
    )
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=100
    )


def test_what_new_test_writes_passes(tmp_path: Path) -> None:
    file = tmp_path / "test_mine.py"
    hostsim("new-test", str(file))
    assert len(file.read_text().splitlines()) <= 16
    done = run(tmp_path, file.name)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    again = hostsim("new-test", str(file), check=False)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_a_host_is_shared_and_its_links_can_be_impaired(tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        """
def test_one(hostsim_host: Host) -> None:
    assert ping(hostsim_host) == 0
    test_one.daemon = hostsim_host

def test_two(hostsim_host: Host) -> None:
    assert hostsim_host is test_one.daemon
    hostsim_host["server"].link(loss=1.0, direction="in", seed=7)
    assert ping(hostsim_host) == 1
    (link,) = hostsim_host.links()
    assert (link.vm, link.loss, link.seed) == ("server", 1.0, 7)
    assert link.lost == link.packets >= 20
    hostsim_host["server"].link()
    assert hostsim_host.links() == []
    assert ping(hostsim_host) == 0
""",
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_report_of_a_failure_has_what_the_host_says(tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        """
def test_one(hostsim_host: Host) -> None:
    assert ping(hostsim_host) == 0
    hostsim_host["server"].link(down=True)
    assert ping(hostsim_host) == 0
""",
    )
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    assert "hostsim flows" in done.stdout
    assert "icmp:198.18.0.10:" in done.stdout
    assert "hostsim log" in done.stdout
    assert "host plug is up" in done.stdout


def test_without_root_and_without_a_host(tmp_path: Path) -> None:
    done = outcome(
        tmp_path,
        """
import os
def test_one(monkeypatch, request) -> None:
    pass

@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

def test_two(hostsim_host: Host) -> None:
    raise AssertionError
""",
    )
    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "a host needs root" in done.stdout
    (tmp_path / "test_bare.py").write_text("def test_one(hostsim_host) -> None: ...\n")
    bare = run(tmp_path, "test_bare.py")
    assert "which host?" in bare.stdout
