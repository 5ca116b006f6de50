# SPDX-License-Identifier: Apache-2.0
"""What the READMEs say to type can be typed: commands, options, cases of benches, parts of scripts;
and what they quote is there: keys of the host file, lines that the command line says."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.recipes import recipe
from hostsim.cli import agent
from hostsim.cli.main import command_line
from hostsim.cli.manpages import commands
from hostsim.cli.tools import BENCHES, bench_parser
from hostsim.hostfile import file as hostfile
from hostsim.hostfile.schema import schema
from hostsim.model import RootSpec

ROOT = Path(__file__).parents[2]
PLACES = ("hostsim", "netns", "cext", "tests", "scripts", "vagrant")
FILES = [
    ROOT / "README.md",
    *(file for place in PLACES for file in sorted((ROOT / place).rglob("README.md"))),
]
CLI = (ROOT / "hostsim/cli/README.md").read_text()
AGENT = re.findall(r"^  ([a-z]+) ", agent.USAGE, re.MULTILINE)
PLACEHOLDERS = {"NAME", "COMMAND", "CMD..."}

SPAN = re.compile(r"`([^`]+)`")
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
TYPED = re.compile(r"(?:^|[`'(/]|\bsudo |&& )(hostsim(?:-agent)?) +(.*)")
OPTION = re.compile(r"(?<!\S)(--?[a-z][a-z-]*)")
KEY = re.compile(r"(?:^|[{,]) *([a-z_]+) = ")


def code(text: str) -> Iterator[str]:
    """What is code in it: lines of fenced blocks, and what is in backticks."""
    for block in FENCED.findall(text):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()[1:-1]
    for span in SPAN.findall(FENCED.sub("", text)):
        yield " ".join(span.replace("\\|", "|").split())


def typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Program and words of each command line of ours, without what runs in a VM."""
    for line in code(text):
        for program, rest in TYPED.findall(line):
            words = re.split(r" -- |[`'#;&()]| \| ", rest)[0].split()
            if words:
                yield program, words


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """The parser of a command line's last verb."""
    if words[:1] == ["bench"] and words[1:2] and words[1] in BENCHES:
        return bench_parser(words[1])[1]
    parser: argparse.ArgumentParser = command_line()
    for word in words:
        below = commands(parser)
        if not below or word not in below:
            break
        parser = below[word]
    return parser


def faults(text: str) -> Iterator[str]:
    """What its command lines have that the command line has not."""
    known = commands(command_line())
    for program, words in typed(text):
        said = " ".join((program, *words))
        if words[0] == "--host":
            words = words[2:] or ["--host"]
        name = words[0].split("|")[0].rstrip(",.")
        if program == "hostsim-agent":
            if name not in AGENT:
                yield f"{said}: no such command of the agent"
            continue
        if name.startswith("-") or name in PLACEHOLDERS or "=" in name:
            continue
        if name not in known:
            yield f"{said}: no such command"
            continue
        options = parser_of(words)._option_string_actions
        outer = known[name]._option_string_actions
        for option in OPTION.findall(" ".join(words[1:])):
            if option not in options and option not in outer:
                yield f"{said}: it has no {option}"
        if name == "bench" and "--case" in options:
            cases = re.split(r"[:,)] ?", options["--case"].help or "")
            for case in re.findall(r"--case (\S+)", said):
                begin = case[:-3] if case.endswith("...") else None
                if not any(one == case or (begin and one.startswith(begin)) for one in cases):
                    yield f"{said}: no such case"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_it_says_to_type_is_one(file: Path) -> None:
    assert list(faults(file.read_text())) == []


def test_the_checker_finds_faults() -> None:
    good = (
        "`hostsim up edge`, `sudo hostsim --host a flows --match x`, `hostsim bench ring --runs 3`"
    )
    assert [" ".join(words) for _, words in typed(good)] == [
        "up edge", "--host a flows --match x", "bench ring --runs 3",
    ]  # fmt: skip
    assert list(faults(good)) == []
    bad = {
        "`hostsim flow`": "hostsim flow: no such command",
        "`hostsim flows --mtch x`": "hostsim flows --mtch x: it has no --mtch",
        "```\nsudo hostsim bench path --case udp65/veth  # so\n```": (
            "hostsim bench path --case udp65/veth: no such case"
        ),
        "`hostsim exec work -- hostsim-agent flop x`; `hostsim-agent flop x`": (
            "hostsim-agent flop x: no such command of the agent"
        ),
    }
    for text, fault in bad.items():
        assert list(faults(text)) == [fault]


def keys(tree: object) -> set[str]:
    """Every key of every table that a host file may have."""
    found: set[str] = set()
    if isinstance(tree, dict):
        found |= set(tree.get("properties", ()))
        for below in tree.values():
            found |= keys(below)
    elif isinstance(tree, list):
        found = set().union(*map(keys, tree))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_keys_it_gives_values_are_of_the_host_file(file: Path) -> None:
    known = keys(schema())
    assert len(known) > 50
    text = file.read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += SPAN.findall(FENCED.sub("", text))
    assert {key for line in lines for key in KEY.findall(line)} <= known


def test_the_lines_it_explains_are_said() -> None:
    """The first column of "When something is wrong": each part of a line stands in the code."""
    (section,) = re.findall(r"^## When something is wrong\n(.*)", CLI, re.DOTALL | re.MULTILINE)
    places = [*(ROOT / "hostsim").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    source = re.sub(r"\{[^{}]*\}", "NAME", "".join(path.read_text() for path in places))
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)[2:]
    lines = [line for cell in cells for line in SPAN.findall(cell) if " " in line]
    assert len(lines) > 3
    parts = {part for line in lines for part in re.split(r"[:;] ", line) if " " in part}
    assert not {part for part in parts if part not in source}


def rootless(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """The commands that need no root."""
    for name, sub in commands(parser).items():
        yield from rootless(sub, f"{before}{name} ")
        if sub.get_default("needs_root") is False and not commands(sub):
            yield before + name


def test_the_commands_that_need_no_root_are_told() -> None:
    (sentence,) = re.findall(r"^All but (.*?)need root\.", CLI, re.DOTALL | re.MULTILINE)
    told = {name for name in SPAN.findall(sentence) if not name.startswith("-")}
    assert told == set(rootless(command_line()))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_parts_of_the_tests_it_names_are_parts(file: Path) -> None:
    parts = re.findall(r"^part_([a-z]+)\(", (ROOT / "scripts/test").read_text(), re.MULTILINE)
    named = re.findall(r"`scripts/test ([a-z]+)", file.read_text())
    assert not set(named) - set(parts)


def test_all_benches_are_run_by_the_script() -> None:
    (names,) = re.findall(r"^NAMES=\(([a-z ]+)\)", (ROOT / "scripts/bench").read_text(), re.M)
    assert sorted(names.split()) == sorted(BENCHES)


FIVE = ("A new operating system in five commands", "Two of them at one desk in five commands")


@pytest.mark.parametrize("heading", FIVE)
def test_five_commands_are_five(heading: str) -> None:
    lines = recipe(heading)
    assert len(lines) == 5
    assert [line for line in lines if "hostsim" in line]
    assert not [line for line in lines if "hostsim " in line.replace(".venv/bin/hostsim ", "")]


def test_the_new_operating_system_is_the_one_that_is_built_and_it_boots(tmp_path: Path) -> None:
    _, build, write, up, inside = recipe(FIVE[0])
    subprocess.run(("sh", "-c", write), cwd=tmp_path, check=True)
    (file,) = tmp_path.iterdir()
    spec = hostfile.load(str(file))
    (vm,) = spec.vms
    assert vm.boots
    assert vm.root == RootSpec(build.split()[3], image=True, boot=True)
    assert up.split()[2:] == [file.name]
    assert inside.split()[2] == vm.name


def test_the_desk_has_the_images_that_are_built() -> None:
    _, *builds, up, _ = recipe(FIVE[1])
    roots = [vm.root for vm in hostfile.load(up.split()[2]).vms if vm.root is not None]
    assert roots == [RootSpec(build.split()[3], image=True, boot=True) for build in builds]
