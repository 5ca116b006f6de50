# SPDX-License-Identifier: Apache-2.0
"""The READMEs name files, commands and keys: all of them exist. README.md is the door; each room
has its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostsim.hostfile import file as hostfile
from hostsim.hostfile import matches

ROOT = Path(__file__).parents[2]
PLACES = ("hostsim/", "netns/", "cext/", "tests/", "scripts/", "vagrant/")
FILES = [
    ROOT / "README.md",
    *(f for place in PLACES for f in sorted((ROOT / place).rglob("README.md"))),
]
README, ALL = FILES[0].read_text(), "\n".join(file.read_text() for file in FILES)
HOSTFILE = (ROOT / "hostsim/hostfile/README.md").read_text()
DOOR_MAX = 150
WIDTH = 118


def names(text: str) -> set[str]:
    """Files of the project in backticks on one line."""
    quoted = re.findall(r"`([^`\n]+)`", text)
    words = {word for one in quoted for word in one.split() if word.startswith(PLACES)}
    return {re.sub(r"[,.;]+$", "", word) for word in words}


def test_the_door_is_no_manual() -> None:
    assert len(README.splitlines()) <= DOOR_MAX


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_it_names_exists(file: Path) -> None:
    text = file.read_text()
    assert not {name for name in names(text) if not (ROOT / name).exists()}
    links = set(re.findall(r"\]\(([^)#\s]+)", text))
    assert not {link for link in links if not (file.parent / link).exists()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_its_lines_fit(file: Path) -> None:
    """Rows of tables cannot be broken."""
    lines = file.read_text().splitlines()
    assert not [line for line in lines if len(line) > WIDTH and not line.startswith(("|", "!"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_section_it_links_to_is_there(file: Path) -> None:
    for link, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", file.read_text()):
        there = (file.parent / link if link else file).read_text()
        heads = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
        assert section in {head.lower().replace(",", "").replace(" ", "-") for head in heads}, link


def test_the_map_has_every_room_with_a_readme() -> None:
    assert not {
        str(room)
        for room in (file.relative_to(ROOT) for file in FILES[1:])
        if f"({room})" not in README
    }


def test_every_command_of_the_command_line_is_in_them() -> None:
    command = (Path(sys.executable).with_name("hostsim"), "--help")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^    ([a-z]+)(?:\s|$)", said, re.MULTILINE)
    assert len(found) > 12
    assert not {name for name in found if f"hostsim {name}" not in ALL}


@pytest.mark.parametrize("name", ["edge", "duo", "both", "desk"])
def test_the_shipped_hosts_it_names_are_there(name: str) -> None:
    assert hostfile.load(name).name == name
    assert f"hostsim up {name}" in README


def test_the_smallest_host_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert hostfile.parse(text, tmp_path / "tiny.toml").routes[0].through == ("fw",)


def test_the_keys_of_a_host_file_are_in_its_rooms() -> None:
    readers = sorted((ROOT / "hostsim/hostfile").glob("*.py"))
    source = "".join(file.read_text() for file in readers)
    keys = set(re.findall(r'(?:take|choice)\(\s*"([a-z_]+)"', source)) | set(matches.MATCH_KEYS)
    assert len(keys) > 15
    missing = {key for key in keys - {"os"} if f"`{key}`" not in HOSTFILE}
    assert not {key for key in missing if f"`{key}`" not in ALL}


def test_the_map_has_every_room_of_the_code() -> None:
    (section,) = re.findall(r"^## The map\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    rooms = {
        f"`{room.relative_to(ROOT)}/`"
        for place in ("hostsim", "cext")
        for room in (ROOT / place).iterdir()
        if room.is_dir() and room.name != "__pycache__"
    }
    assert len(rooms) > 20
    assert not {room for room in rooms if room not in section}
