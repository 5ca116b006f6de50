"""README.md names files, commands and keys: all of them exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hostsim.hostfile import file as hostfile
from hostsim.hostfile import matches

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PLACES = ("hostsim/", "netns/", "cext/", "tests/", "scripts/", "vagrant/")


def quoted() -> list[str]:
    """Everything in backticks on one line."""
    return re.findall(r"`([^`\n]+)`", README)


def test_every_file_it_names_exists() -> None:
    words = {word for text in quoted() for word in text.split() if word.startswith(PLACES)}
    assert len(words) > 30
    assert not {word for word in words if not (ROOT / word.rstrip(",.")).exists()}


def test_every_command_of_the_command_line_is_in_it() -> None:
    command = (Path(sys.executable).with_name("hostsim"), "--help")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^    ([a-z]+)(?:\s|$)", said, re.MULTILINE)
    assert len(names) > 12
    assert not {name for name in names if f"hostsim {name}" not in README}


@pytest.mark.parametrize("name", ["edge", "duo", "both"])
def test_the_shipped_hosts_it_names_are_there(name: str) -> None:
    assert hostfile.load(name).name == name
    assert f"hostsim up {name}" in README


def test_the_keys_of_a_host_file_are_in_it() -> None:
    readers = sorted((ROOT / "hostsim/hostfile").glob("*.py"))
    source = "".join(file.read_text() for file in readers)
    keys = set(re.findall(r'(?:take|choice)\(\s*"([a-z_]+)"', source)) | set(matches.MATCH_KEYS)
    assert len(keys) > 15
    assert not {key for key in keys - {"os"} if f"`{key}`" not in README}
