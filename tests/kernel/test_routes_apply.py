# SPDX-License-Identifier: Apache-2.0
"""`routes apply FILE`, as a person types it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, hostsim

pytestmark = pytest.mark.root

NAME = "hscmd"
HOST = """
[host]
name = "hscmd"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[vm]]
name = "fw"
pids = 100
[[vm]]
name = "ids"
%s
[[route]]
match = { proto = "%s" }
through = ["fw", "ids"]
"""


def host_file(folder: Path, proto: str, more: str = "") -> Path:
    made = folder / f"{proto}.toml"
    made.write_text(HOST % (more, proto))
    return made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A host whose route is for TCP; its folder."""
    hostsim("up", str(host_file(tmp_path, "tcp")))
    yield tmp_path
    hostsim("--host", NAME, "down")


def protocols() -> list[str]:
    return [row["match"]["proto"] for row in ask("routes")]


def test_a_policy_from_a_file(host: Path) -> None:
    assert protocols() == ["tcp"]
    done = hostsim("routes", "apply", str(host_file(host, "udp")))
    assert done.stdout.startswith("1 routes in force (epoch ")
    assert done.stderr == ""
    assert protocols() == ["udp"]


def test_a_file_is_found_from_where_the_command_is_typed(host: Path) -> None:
    """The daemon has another working directory."""
    host_file(host, "udp")
    words = (HOSTSIM, "routes", "apply", "udp.toml")
    subprocess.run(words, cwd=host, check=True, capture_output=True, timeout=30)
    assert protocols() == ["udp"]


def test_what_only_up_applies_is_named(host: Path) -> None:
    file = host_file(host, "udp", "pids = 50\nrun = 'sleep 9'")
    done = hostsim("routes", "apply", str(file), "--json")
    assert done.stderr == (
        "hostsim: warning: not applied, since only `up` does: pids of ids, run of ids\n"
    )
    assert '"ignored": ["pids of ids", "run of ids"]' in done.stdout
    assert protocols() == ["udp"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("through = [", "Invalid"),
        (HOST % ("", "quic"), "quic"),
        (HOST.replace('"ids"]', '"nobody"]') % ("", "udp"), "nobody"),
    ],
    ids=["not-toml", "no-such-protocol", "no-such-vm"],
)
def test_a_wrong_file_changes_nothing(host: Path, text: str, why: str) -> None:
    before = ask("routes")
    wrong = host / "wrong.toml"
    wrong.write_text(text)
    done = hostsim("routes", "apply", str(wrong), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hostsim: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert ask("routes") == before


def test_apply_wants_a_file(host: Path) -> None:
    done = hostsim("routes", "apply", check=False)
    assert done.returncode == 2
    assert done.stderr == "hostsim: routes apply: no file; hostsim routes apply FILE\n"
    done = hostsim("routes", "apply", str(host / "nowhere.toml"), check=False)
    assert done.returncode == 1
    assert "nowhere.toml" in done.stderr
