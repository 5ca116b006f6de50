# SPDX-License-Identifier: Apache-2.0
"""Network functions of a host as its user sees them: the README's examples, as printed, and what
`status` says of a function that fails."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cext import INCLUDE
from help.cli import HOSTSIM, ask, hostsim
from help.functions import put
from help.net import ENDS_V4
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
README = (ROOT / "hostsim/nf/README.md").read_text()

HOST = (
    '[host]\nname = "nflife"\n'
    + ENDS_V4
    + """
[[vm]]
name = "one"
nf = "%s"
[[vm]]
name = "two"
nf = "count"
[[route]]
match = { proto = "udp" }
through = ["one", "two"]
on_failure = "%s"
"""
)


def block(language: str) -> str:
    """The README's example in that language; under 30 lines."""
    source = README.split(f"```{language}\n")[1].split("```")[0]
    assert len(source.splitlines()) < 30
    return source


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Any]:
    """up(nf, on_failure): the host, with echo servers at 53 and 54."""
    servers: list[subprocess.Popen[str]] = []

    def start(nf: str, on_failure: str = "drop") -> None:
        (tmp_path / "nflife.toml").write_text(HOST % (nf, on_failure))
        hostsim("up", str(tmp_path / "nflife.toml"))
        for port in (53, 54):
            words = ("ip", "netns", "exec", "hs-nflife-server", *program("udp", "echo", port))
            servers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            line = servers[-1].stdout
            assert line is not None
            assert line.readline() == "up\n"

    yield start
    for server in servers:
        server.kill()
        server.communicate()
    hostsim("--host", "nflife", "down")


def answer(port: int, text: str = "hello", seconds: float = 2.0) -> str:
    words = program("udp", "say", "198.18.0.20", port, text, seconds)
    return hostsim("exec", "client", "--", *words).stdout.strip()


def vm(name: str) -> dict[str, Any]:
    (found,) = [one for one in ask("status")["vms"] if one["name"] == name]
    return dict(found)


def test_the_readmes_function_in_python(up: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(block("python"))
    up("mine:no_dns")
    assert answer(54) == "hello"
    assert answer(53, seconds=0.5) == "nothing"
    assert vm("one")["nf"]["counters"]["dropped"] == 1
    assert answer(54) == "hello"


def test_the_readmes_function_in_c(up: Any, tmp_path: Path) -> None:
    (tmp_path / "no_dns.c").write_text(block("c"))
    (line,) = [one for one in README.splitlines() if one.startswith("`cc ")]
    command = f"{line.split('`')[1]} -Wall -Werror"
    path = f"{Path(HOSTSIM).parent}:{os.environ['PATH']}"  # as one who has hostsim on it
    subprocess.run(command, shell=True, cwd=tmp_path, env={"PATH": path}, check=True, timeout=60)
    up("./no_dns.so")
    assert answer(54) == "hello"
    assert answer(53, seconds=0.5) == "nothing"
    assert vm("one")["nf"]["counters"]["dropped"] == 1


def test_a_plug_in_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    source = block("c").replace("HS_NF_PLUGIN", "const uint32_t hs_nf_version = 99")
    (tmp_path / "no_dns.c").write_text(source)
    command = ("cc", "-shared", "-fPIC", f"-I{INCLUDE}", "-o", "no_dns.so", "no_dns.c")
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "nflife.toml").write_text(HOST % ("./no_dns.so", "drop"))
    said = hostsim("up", str(tmp_path / "nflife.toml"), check=False)
    assert said.returncode == 1
    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert "plug-in no_dns.so: has version 99 of hostsim/nf.h, 1 is wanted; build it anew" in line


@pytest.mark.timeout(120)
@pytest.mark.parametrize("on_failure", ["drop", "skip"])
def test_a_function_that_raises_takes_its_vm_alone_down(
    up: Any, tmp_path: Path, on_failure: str
) -> None:
    put("fragile", tmp_path)
    up("fragile:fragile", on_failure)
    assert answer(54) == "hello"
    assert vm("one")["state"] == "running"
    assert answer(54, "die", 0.2) == "nothing"
    until(lambda: vm("one")["nf"]["restarts"] == 1 and vm("one")["state"] == "running", 20)
    assert vm("one")["nf"]["why"] == "status 1: ValueError: a packet it cannot bear"
    assert until(lambda: answer(54, seconds=0.5) == "hello", 20)
    said = hostsim("status").stdout
    assert "one last ended with status 1: ValueError: a packet it cannot bear\n" in said

    def fails_again() -> bool:
        answer(54, "die", 0.05)
        return bool(vm("one")["state"] == "failed")

    until(fails_again, 40)
    assert vm("one")["nf"]["restarts"] == 8
    assert vm("two")["state"] == "running"
    assert vm("two")["nf"]["restarts"] == 0
    assert (answer(54, seconds=0.5) == "hello") == (on_failure == "skip")
    log = Path("/run/hostsim/nflife/log").read_text()
    assert "one: its network function is given up (status 1: ValueError" in log
