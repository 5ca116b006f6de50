# SPDX-License-Identifier: Apache-2.0
"""hostsim-agent inside an OS: `watch` says each flip, once, to each who watches and to no other;
and what `flip`, `next` and `status` answer while others do."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help import cli
from help.cli import HOSTSIM, hostsim
from help.waiting import until
from hostsim.cli import client

pytestmark = pytest.mark.root

AGENT = str(Path(HOSTSIM).with_name("hostsim-agent"))
FLIPS = 600
"""More events than a socket takes that nobody reads: some 200 kB, of which each takes 768 bytes."""
FILE = """
[host]
name = "hsag"
[[vm]]
name = "work"
[vm.os]
[[vm]]
name = "play"
[vm.os]
[[vm]]
name = "rest"
[vm.os]
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with cli.host(FILE, tmp_path) as state:
        yield state


class Watcher:
    """`hostsim-agent watch` in an OS; what it has said so far."""

    def __init__(self, os: str, out: Path, *words: str) -> None:
        self.out = out
        with out.open("w") as file:
            argv = (HOSTSIM, "exec", os, "--", AGENT, "watch", *words)
            self.process = subprocess.Popen(argv, stdout=file, stderr=file)

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()


@contextlib.contextmanager
def watching(os: str, out: Path, *words: str) -> Iterator[Watcher]:
    made = Watcher(os, out, *words)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(20)


def heard(*watchers: Watcher) -> None:
    """Flips back and forth until all of them have said a flip: they watch from then on."""
    names = ["play", "work"]
    while not all(one.lines() for one in watchers):
        for name in names:
            hostsim("flip", name)


def test_watchers_in_every_os_hear_every_flip_once(host: Path, tmp_path: Path) -> None:
    with (
        watching("work", tmp_path / "work") as work,
        watching("play", tmp_path / "play", "--json") as play,
        watching("rest", tmp_path / "rest") as rest,
    ):
        heard(work, play, rest)
        before = {one: len(one.lines()) for one in (work, play, rest)}
        hostsim("flip", "rest")
        hostsim("exec", "rest", "--", AGENT, "flip", "play")
        hostsim("exec", "play", "--", AGENT, "next")
        hostsim("flip", "mars", check=False)  # refused: no event
        hostsim("flip", "work")
        until(lambda: all(len(one.lines()) >= before[one] + 4 for one in before), 30)
        now = {one: one.lines()[before[one] :] for one in before}
        told = [
            "rest is foreground after work, asked by cli",
            "play is foreground after rest, asked by the agent of rest",
            "rest is foreground after play, asked by the agent of play",
            "work is foreground after rest, asked by cli",
        ]
        assert now[work] == now[rest] == told
        events = [json.loads(line) for line in now[play]]
        assert all(event["event"] == "foreground" for event in events)
        assert [
            f"{event['os']} is foreground after {event['previous']}, asked by {event['by']}"
            for event in events
        ] == told


def test_a_flip_without_anybodys_asking_is_heard(host: Path, tmp_path: Path) -> None:
    """The foreground OS ends: who is next is an event too, with its reason."""
    with watching("play", tmp_path / "play") as play:
        heard(play)
        hostsim("exec", "work", "--", "kill", "-TERM", "1", check=False)
        want = "play is foreground after work, asked by the end of work"
        until(lambda: play.lines()[-1] == want, 30)


def test_who_asks_gets_answers_and_no_events(host: Path) -> None:
    """On a connection that does not watch: a flip's own answer comes, its event does not."""
    done = hostsim("exec", "work", "--", AGENT, "flip", "play")
    assert done.stdout.startswith("play is foreground after work, ")
    assert len(done.stdout.splitlines()) == 1
    said = hostsim("exec", "play", "--", AGENT, "status", "--json").stdout
    assert json.loads(said) == {"os": "play", "state": "foreground", "foreground": "play"}


def test_a_watcher_ends_with_its_host(tmp_path: Path) -> None:
    with cli.host(FILE, tmp_path), watching("rest", tmp_path / "rest") as rest:
        heard(rest)
        hostsim("down")
        assert rest.process.wait(30) != 0
        hostsim("up", str(tmp_path / "hsag.toml"))


def test_one_that_does_not_read_is_dropped_and_holds_no_flip(host: Path, tmp_path: Path) -> None:
    """It is stopped until its socket is full: flips go on, another one hears them all, and its
    connection is ended."""
    with (
        watching("work", tmp_path / "deaf") as deaf,
        watching("play", tmp_path / "play") as play,
    ):
        heard(deaf, play)
        hostsim("exec", "work", "--", "pkill", "-STOP", "-f", "hostsim-agent watch")
        before = len(play.lines())
        for n in range(FLIPS):
            client.ask("hsag", "flip", os=("play", "work")[n % 2])
        until(lambda: len(play.lines()) == before + FLIPS, 30)
        hostsim("exec", "work", "--", "pkill", "-CONT", "-f", "hostsim-agent watch")
        assert deaf.process.wait(30) == 1
        *heard_of, last = deaf.lines()
        assert len(heard_of) < len(play.lines())
        assert last == "hostsim-agent: the KMC: ended the connection"
