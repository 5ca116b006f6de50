# SPDX-License-Identifier: Apache-2.0
"""Impaired links: what is lost, copied and spoiled is what was asked for, on every path; and the
books name it. The witness is ping, whose replies have numbers."""

import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.cli import HOSTSIM, Done, ask, host, hostsim
from help.net import ENDS_V4
from help.waiting import until

pytestmark = pytest.mark.root

NAME = "himp"
PINGS = 1000
VMS = {
    "switch": '[[vm]]\nname = "one"\n[[vm]]\nname = "two"\n',
    "veth": '[[vm]]\nname = "one"\n[[vm]]\nname = "two"\n',
    "ring": '[[vm]]\nname = "one"\nnf = "forward"\n[[vm]]\nname = "two"\nnf = "forward"\n',
}
BYPASS = {"switch": "never", "veth": "veth", "ring": "ring"}


def text(path: str, more: str = "") -> str:
    match = 'match = { proto = "icmp" }'
    route = f'[[route]]\n{match}\nthrough = ["one", "two"]\nbypass = "{BYPASS[path]}"\n'
    return f'[host]\nname = "{NAME}"\n{ENDS_V4}{VMS[path]}{route}{more}'


@pytest.fixture(params=VMS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A host whose flows take this path, if nothing is impaired."""
    with host(text(request.param), tmp_path):
        yield request.param


@pytest.fixture
def veth(tmp_path: Path) -> Iterator[None]:
    with host(text("veth"), tmp_path):
        yield


def ping(count: int = PINGS) -> Done:
    words = (HOSTSIM, "exec", "client", "--", "ping", "-n", "-i", "0.0005", "-W", "1", "-c")
    return subprocess.run(
        [*words, str(count), "198.18.0.20"], capture_output=True, text=True, check=False, timeout=50
    )


def answered(done: Done) -> set[int]:
    return {int(number) for number in re.findall(r"icmp_seq=(\d+)", done.stdout)}


def row(vm: str, direction: str) -> dict[str, Any]:
    (found,) = [r for r in ask("link") if (r["vm"], r["direction"]) == (vm, direction)]
    return dict(found)


def in_interval(found: int, count: int, share: float) -> bool:
    """Whether so many of `count` are within the 99.9 % interval of a share."""
    return abs(found - count * share) <= 3.29 * math.sqrt(count * share * (1 - share))


def hops() -> list[dict[str, Any]]:
    return [hop for flow in ask("flows") for hop in flow["hops"] if hop["to"] != "bridge"]


def losses() -> int:
    rows = ask("verify")
    assert not [row for row in rows if row["missing"]]
    return sum(row["drops"].get("link-loss", 0) for row in rows)


def test_a_share_is_lost_on_every_path_and_named(path: str) -> None:
    hostsim("link", "two", "loss=10%", "seed=7", "--direction", "in")
    gone = set(range(1, PINGS + 1)) - answered(ping())
    link = row("two", "in")
    assert link["packets"] >= PINGS  # requests and what is left of the replies
    assert in_interval(link["lost"], link["packets"], 0.1), link
    assert len(gone) == link["lost"]
    assert losses() == link["lost"]
    for hop in hops():
        assert hop["path"] == "switch", hop
    why = {hop["reason"] for hop in hops()}
    assert path == "switch" or why == {"two has an impaired link: the switch must see its packets"}


def test_the_path_is_back_once_it_is_cleared(path: str) -> None:
    hostsim("link", "two", "loss=10%")
    ping(100)
    assert {hop["path"] for hop in hops()} == {"switch"}
    hostsim("link", "two", "--clear")
    assert ask("link") == []

    def back() -> bool:
        assert len(answered(ping(100))) == 100
        return path in {hop["path"] for hop in hops()}

    assert until(back, 20)


def test_the_same_seed_loses_the_same_packets(veth: None) -> None:
    gone = []
    for seed in (7, 7, 8):
        hostsim("link", "server", "--clear")
        hostsim("link", "server", "loss=5%", f"seed={seed}", "--direction", "in")
        gone.append(set(range(1, 1001)) - answered(ping(1000)))
    assert gone[0] == gone[1] != gone[2]
    assert gone[0]


def test_copies_and_wrong_bits(veth: None) -> None:
    hostsim("link", "server", "duplicate=100%", "--direction", "in")
    done = ping(200)
    assert len(answered(done)) == 200
    assert done.stdout.count("(DUP!)") >= 199, done.stdout  # ping ends at the last reply
    hostsim("link", "server", "corrupt=20%", "--direction", "in")
    gone = set(range(1, 1001)) - answered(ping(1000))
    link = row("server", "in")
    assert in_interval(link["corrupted"], link["packets"], 0.2)
    others = link["packets"] - 1000  # a kernel's own, to groups
    assert 0 <= link["corrupted"] - len(gone) <= others


def test_a_wrong_bit_is_seen_where_the_sender_leaves_the_checksum_out(veth: None) -> None:
    """By TCP, one packet in fifty spoiled: what arrives is what was sent. Defence: while a link
    spoils, the VMs finish checksums themselves."""
    hostsim("link", "client", "corrupt=2%", "seed=1", "--direction", "in")
    make = "head -c 1000000 /dev/zero > /tmp/f; cd /tmp; exec python3 -m http.server 80"
    words = [HOSTSIM, "exec", "server", "--", "sh", "-c", make]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=nowhere, stderr=nowhere) as server:
        try:
            until(lambda: ":80 " in hostsim("exec", "server", "--", "ss", "-ltn").stdout)
            fetch = ("curl", "-s", "--max-time", "40", "http://198.18.0.20/f")
            done = hostsim("exec", "client", "--", *fetch)
            assert done.stdout == "\0" * 1000000
            assert row("client", "in")["corrupted"] > 0
        finally:
            server.terminate()
            hostsim("exec", "server", "--", "pkill", "python3", check=False)


def test_a_link_that_is_down_and_up_again(veth: None) -> None:
    hostsim("link", "server", "down")
    assert not answered(ping(5))
    hostsim("link", "server", "--clear")
    assert len(answered(ping(20))) == 20


def test_a_host_file_impairs_from_the_start(tmp_path: Path) -> None:
    more = '[[link]]\nof = "server"\ndirection = "in"\nloss = 1\n[[link]]\nof = "two"\nloss = 0.0\n'
    with host(text("veth", more), tmp_path):
        assert not answered(ping(5))
        assert [(r["vm"], r["direction"], r["loss"]) for r in ask("link")] == [
            ("server", "in", 1.0)
        ]
        (tmp_path / "better.toml").write_text(text("veth"))
        hostsim("routes", "apply", str(tmp_path / "better.toml"))
        assert ask("link") == []
        assert len(answered(ping(20))) == 20


WRONG = (
    (("nobody", "loss=1%"), "no VM or endpoint"),
    (("server", "loss=101%"), "loss"),
    (("server", "delay=-5ms"), "delay"),
    (("server", "jitter=5ms"), "jitter"),
    (("server", "speed=1"), "speed"),
    (("server",), "--clear"),
)


def test_what_is_wrong_gets_one_line(veth: None) -> None:
    for words, why in WRONG:
        done = hostsim("link", *words, check=False)
        assert done.returncode in (1, 2), words
        assert why in done.stderr, words
        assert done.stderr.count("\n") == 1, words
        assert ask("link") == [], words


@pytest.mark.stock
def test_delay_and_rate_or_one_line_that_says_why_not(veth: None) -> None:
    """A round trip takes the delay, and is back to nothing afterwards. The line is for kernels that
    have sch_fq or a TAP."""
    done = hostsim("link", "server", "delay=30ms", "--direction", "in", check=False)
    if done.returncode:
        assert not Path("/dev/net/tun").exists()
        assert "sch_fq" in done.stderr
        assert done.stderr.count("\n") == 1
        assert ask("link") == []
        assert len(answered(ping(5))) == 5
        return
    times = [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", ping(20).stdout)]
    assert len(times) == 20
    assert min(times) >= 30, times
    hostsim("link", "server", "--clear")
    until(lambda: min(rtts()) < 30, 20)
    hostsim("link", "server", "rate=10kbit", "--direction", "in")
    ping(100)  # some 10 kB, of which each takes 80 ms
    link = row("server", "in")
    assert link["late"] > 0, link
    assert not [one for one in ask("verify") if one["missing"]]


def rtts() -> list[float]:
    return [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", ping(5).stdout)]
