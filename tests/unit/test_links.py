# SPDX-License-Identifier: Apache-2.0
"""What can be said of an impaired link: in a host file, and as words of a command."""

from pathlib import Path

import pytest

from hostsim.errors import HostFileError, UsageError
from hostsim.hostfile.file import parse
from hostsim.hostfile.links import from_words
from hostsim.model import LinkSpec
from hostsim.routing.impair import ends

FILE = '[host]\nname = "x"\n[[vm]]\nname = "a"\n[[endpoint]]\nname = "b"\n'


def read(text: str) -> tuple[LinkSpec, ...]:
    return parse(FILE + text, Path("x.toml")).links


def test_a_file_and_a_command_say_the_same() -> None:
    (of_file,) = read(
        '[[link]]\nof = "a"\ndirection = "in"\nloss = "1%"\nduplicate = 0.25\ndelay = "5ms"\n'
        'jitter = "200us"\nreorder = "2.5%"\nrate = "10mbit"\nseed = 7\n'
    )
    words = ("loss=1%", "duplicate=0.25", "delay=5ms", "jitter=200us", "reorder=2.5%")
    assert from_words("a", "in", (*words, "rate=10mbit", "seed=7")) == of_file
    assert of_file == LinkSpec(
        "a", "in", 5_000_000, 200_000, 0.01, 0.25, 0.025, 0.0, 10_000_000, 7, False
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("of = 'c'", "no VM or endpoint"),
        ("loss = '101%'", "loss = '101%' is not allowed"),
        ("loss = 1.5", "loss = 1.5 is not allowed"),
        ("loss = -0.1", "loss = -0.1 is not allowed"),
        ("loss = nan", "loss = nan is not allowed"),
        ("loss = true", "loss = True is not allowed"),
        ("delay = 5", "delay = 5 is not allowed"),
        ("delay = '10s'", "delay = '10s' is not allowed"),
        ("delay = '5'", "delay = '5' is not allowed"),
        ("jitter = '5ms'", "jitter is more than delay"),
        ("reorder = 0.1", "reorder without delay"),
        ("rate = '1bit'", "rate = '1bit' is not allowed"),
        ("seed = -1", "seed = -1 is not allowed"),
        ("direction = 'up'", "direction = 'up' is not allowed"),
        ("speed = 1", "unknown key 'speed'"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(line: str, why: str) -> None:
    of = "" if line.startswith("of") else 'of = "a"\n'
    with pytest.raises(HostFileError) as caught:
        read(f"[[link]]\n{of}{line}\n")
    assert why in str(caught.value)
    assert "x.toml:7" in str(caught.value)


def test_a_link_is_impaired_once_in_a_direction() -> None:
    both = '[[link]]\nof = "a"\nloss = 0.1\n'
    with pytest.raises(HostFileError, match="has a \\[\\[link\\]\\] of that direction already"):
        read(both + both.replace("loss", 'direction = "in"\nloss'))
    one = '[[link]]\nof = "a"\ndirection = "in"\nloss = 0.1\n'
    assert len(read(one + one.replace('"in"', '"out"') + one.replace('"a"', '"b"'))) == 3


@pytest.mark.parametrize("word", ["loss", "loss=", "speed=1", "of=b", "loss=x", "seed=1.5", "=1%"])
def test_words_that_say_nothing(word: str) -> None:
    with pytest.raises(UsageError):
        from_words("a", "both", (word,))
    with pytest.raises(UsageError, match="twice"):
        from_words("a", "both", ("loss=1%", "loss=2%"))


def test_each_direction_has_its_own_dice() -> None:
    found = ends((LinkSpec("a", loss=0.1, seed=7), LinkSpec("b")))
    assert set(found) == {("a", "in"), ("a", "out")}
    assert found["a", "in"].seed != found["a", "out"].seed
