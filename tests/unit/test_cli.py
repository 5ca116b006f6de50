# SPDX-License-Identifier: Apache-2.0
"""The command line's manners: help, exit statuses, one line of error and no traceback."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostsim.cli import life
from hostsim.cli.grammar import wrapped
from hostsim.cli.main import command_line
from hostsim.cli.shadows import warn_of_shadows
from hostsim.cli.tools import BENCHES
from hostsim.hostfile import difference
from hostsim.hostfile.file import parse

HOSTSIM = Path(sys.executable).with_name("hostsim")


def hostsim(*words: str, root: bool = True) -> subprocess.CompletedProcess[str]:
    """Not root: nobody in a user namespace of its own, who can still read the installation."""
    before = [] if root or os.geteuid() else ["unshare", "--user"]
    return subprocess.run(
        [*before, HOSTSIM, *words], capture_output=True, text=True, timeout=30, check=False
    )


def one_line(stderr: str) -> bool:
    return stderr.startswith("hostsim: ") and stderr.count("\n") == 1


def test_help_names_every_command() -> None:
    found = hostsim("--help")
    assert found.returncode == 0
    for name in ("check", "up", "down", "clean", "ls", "status", "exec", "shell", "flip"):
        assert name in found.stdout
    for name in ("devices", "routes", "flows", "rules", "bench", "completion"):
        assert name in found.stdout


def test_commands_of_life_are_parsed_without_the_others() -> None:
    """And give the same, errors and all."""
    found: dict[str, str] = {}
    for life_only in (True, False):
        parser = command_line(life_only)
        (subs,) = [one for one in parser._actions if isinstance(one.choices, dict)]
        assert isinstance(subs.choices, dict)
        for name in life.COMMANDS:
            text = subs.choices[name].format_help()
            assert found.setdefault(name, text) == text
        assert (set(subs.choices) == set(life.COMMANDS)) is life_only


def test_what_is_not_read_is_no_traceback() -> None:
    """Neither by a stream that was closed before, nor by one that takes no more."""
    closed = ("ls 2>&-", "ls >&-", "ls <&- >&- 2>&-", "schema >&-", "check <&- >&-")
    for words, status in (*((one, 0) for one in closed), ("ls >/dev/full", 1)):
        line = f'exec "$0" {words}'
        done = subprocess.run(
            ["sh", "-c", line, HOSTSIM], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == status
        assert not done.stderr or one_line(done.stderr)


def test_version() -> None:
    found = hostsim("--version")
    assert (found.returncode, found.stdout) == (0, "hostsim 0.1.0\n")


@pytest.mark.parametrize(
    "words", [(), ("fly",), ("up",), ("bench", "nothing"), ("status", "--yaml"), ("flip",)]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    found = hostsim(*words)
    assert found.returncode == 2
    assert one_line(found.stderr), found.stderr


@pytest.mark.parametrize("words", [("up", "edge"), ("down",), ("status",), ("flip", "x"), ("ls",)])
def test_no_root(words: tuple[str, ...]) -> None:
    found = hostsim(*words, root=False)
    assert found.returncode == 1
    assert one_line(found.stderr), found.stderr
    hint = f"needs root; try: sudo {Path(sys.executable).with_name('hostsim')} {words[0]}\n"
    assert found.stderr.endswith(hint)


def test_check_needs_no_root() -> None:
    found = hostsim("check", "--json", root=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)
    shown = hostsim("check", root=False)
    assert "yes" in shown.stdout
    assert "[/" not in shown.stdout  # markup that nobody has read


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    found = hostsim("completion", shell)
    assert found.returncode == 0
    assert "hostsim" in found.stdout


VMS = '[host]\nname = "x"\n[[vm]]\nname = "a"\n[[vm]]\nname = "b"\naddress = "198.18.0.1/24"\n'


def test_many_shadowed_routes_are_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    route = '[[route]]\nmatch = { proto = "udp" }\nthrough = ["a"]\n'
    warn_of_shadows(parse(VMS + route * 3, Path("x.toml")))
    assert len(capsys.readouterr().err.splitlines()) == 2
    warn_of_shadows(parse(VMS + route * 1201, Path("x.toml")))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "hostsim: warning: and 1,190 more such routes"


def test_what_only_up_applies_is_named() -> None:
    running = parse(VMS, Path("x.toml"))
    assert difference.unapplied(running, running) == []
    other = (
        VMS.replace('"x"', '"y"').replace("0.1/24", "0.2/24").replace('"a"', '"a"\nnf = "count"')
    )
    found = difference.unapplied(running, parse(other, Path("y.toml")))
    assert found == ["[host] name", "nf of a", "address of b"]
    rated = VMS.replace('"a"', '"a"\nrate = "1mbit"')
    assert difference.unapplied(running, parse(rated, Path("x.toml"))) == []


ROUTED = """[host]
name = "h"
[[vm]]
name = "fw"
address = "198.18.0.1/24"
[[vm]]
name = "ids"
[[vm]]
name = "count"
nf = "count"
[[route]]
match = {{ proto = "udp" }}
through = [{through}]
bypass = "{bypass}"
"""


@pytest.mark.parametrize(
    ("through", "bypass", "ttl", "half"),
    [
        ('"count"', "auto", False, False),
        ('"count", "fw"', "auto", True, False),
        ('"fw", "ids"', "auto", True, True),
        ('"fw", "ids"', "ring", True, False),
        ('"fw"', "never", True, False),
    ],
)
def test_up_says_what_a_chain_of_routers_changes(
    capsys: pytest.CaptureFixture[str], through: str, bypass: str, ttl: bool, half: bool
) -> None:
    text = ROUTED.format(through=through, bypass=bypass)
    life._note_routers(parse(text, Path("/tmp/h.toml")))
    said = capsys.readouterr().err
    assert (": a router in its chain takes one from each packet's TTL" in said) == ttl
    assert ("note: fw" in said) == ttl
    assert ("-i any" in said) == half
    assert "count" not in said


def test_more_than_one_uplink_may_be_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    life._warn_of_loops(["eth1"])
    assert capsys.readouterr().err == ""
    life._warn_of_loops(["eth1", "eth2"])
    assert "eth1, eth2" in capsys.readouterr().err


TEXT = """What it is, in a first line that is longer than the width.

    one       the first, which is explained at some length,
              on two lines
    two more  the second
Behind the list comes a paragraph
of two lines.
"""


def test_a_docstring_keeps_its_lists() -> None:
    assert wrapped(TEXT, 40) == [
        "What it is, in a first line that is",
        "longer than the width.",
        "",
        "    one       the first, which is",
        "              explained at some length,",
        "              on two lines",
        "    two more  the second",
        "Behind the list comes a paragraph of two",
        "lines.",
    ]


@pytest.mark.parametrize("name", BENCHES)
def test_the_help_of_a_bench_fits_a_terminal(name: str) -> None:
    module = importlib.import_module(f"hostsim.bench.{name}")
    lines = wrapped(module.__doc__ or "", 78)
    assert max(map(len, lines)) <= 78
    said = " ".join(" ".join(lines).split())
    assert said == " ".join((module.__doc__ or "").split())
