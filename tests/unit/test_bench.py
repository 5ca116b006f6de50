# SPDX-License-Identifier: Apache-2.0
"""The benches' arithmetic and documents, with measurements that are made up."""

import argparse
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostsim.bench import boot, common, flip, losses, page, ring, together, up
from hostsim.cli.grammar import Parser
from hostsim.errors import HostsimError, UsageError
from hostsim.model import RootSpec
from hostsim.ownroot import Source

RUNS = {"hostsim": [1.0, 1.0, 1.0]}


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"case": None, "runs": 3, **given})


def test_runs_alternate_and_ratios_are_of_pairs() -> None:
    order: list[str] = []

    def measure(name: str, values: list[float]) -> common.Measure:
        def once() -> float:
            order.append(name)
            return values.pop(0)

        return once

    case = common.Case("c", "s", measure("a", [1, 2, 9]), {"peer": measure("b", [2, 4, 3])})
    found = common.compare(case, 3)
    assert order == ["a", "b"] * 3
    assert found == {
        "case": "c",
        "unit": "s",
        "value": 2,
        "peers": {"peer": 3},
        "ratio": {"peer": 0.5},
        "runs": {"hostsim": [1, 2, 9], "peer": [2, 4, 3]},
    }


def test_a_peer_that_is_not_there_is_left_out() -> None:
    found = common.run("x", [common.Case("c", "s", lambda: 1.0)], options())
    assert found["bench"] == "x"
    assert found["cases"] == [
        {"case": "c", "unit": "s", "value": 1.0, "peers": {}, "ratio": {}, "runs": RUNS}
    ]
    assert found["machine"]["cpus"] >= 1


def test_cases_can_be_chosen() -> None:
    cases = [common.Case(name, "s", lambda: 1.0) for name in "abc"]
    found = common.run("x", cases, options(case=["c", "a"]))
    assert [case["case"] for case in found["cases"]] == ["a", "c"]
    with pytest.raises(UsageError, match=r"no case z; there are: a, b, c"):
        common.run("x", cases, options(case=["z"]))
    with pytest.raises(UsageError, match="1 or more"):
        common.run("x", cases, options(runs=0))


def test_the_host_that_is_measured() -> None:
    host = tomllib.loads(up.host_file(300))
    assert len(host["vm"]) == 300
    assert host["vm"][299] == {"name": "v300", "address": "198.18.1.44/15"}
    assert len({vm["address"] for vm in host["vm"]}) == 300


def test_the_oses_that_are_measured() -> None:
    host = tomllib.loads(boot.host_file(RootSpec("bookworm", image=True), 20))
    assert [vm["name"] for vm in host["vm"]] == [f"os{number}" for number in range(1, 21)]
    assert all(vm["root"] == "bookworm" and vm["boot"] for vm in host["vm"])


def test_the_peers_oses_have_the_same_root() -> None:
    plain = boot.nspawn_command(Source("/a root", "", "x"), "/mount", "one")
    assert plain[-1] == "--directory=/a root"
    image = boot.nspawn_command(Source("/x.erofs", "erofs", "x"), "/mount", "one")
    assert image[-1] == "--directory=/mount"
    assert "/x.erofs" in image


def test_the_memory_of_processes_and_their_children() -> None:
    assert boot.pss([os.getpid()]) > 1
    assert boot.pss([os.getppid()]) > boot.pss([os.getpid()]) / 2
    assert boot.pss([]) == 0


def test_what_became_of_each_event() -> None:
    read = [1, 2, 3, 3, 9], [3, 5, 6]  # 3: twice in one, and in both; 4, 7, 8: in none
    found = losses.count(9, read, ([range(1, 3), range(9, 10)], [range(4, 6)]))
    assert found == {
        "sent": 9,
        "none": 3,
        "unowned": 4,  # with the button's, which changes with the 8th
        "at most unowned": 4,
        "lost": 1,
        "overflowed": 0,
        "leaked": 1,
        "doubled": 1,
    }


def test_what_overflowed_is_not_lost() -> None:
    read = [1, 2, 6, 9], [8]
    found = losses.count(9, read, ([range(1, 7)], [range(7, 9)]), ([range(3, 6)], []))
    assert (found["lost"], found["overflowed"], found["none"]) == (1, 3, 4)
    assert (found["unowned"], found["at most unowned"]) == (1, 4)


def test_a_run_of_a_mode_serves_all_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(_: losses.Losses, mode: str) -> dict[str, float]:
        ran.append(mode)
        return {"sent": 10.0 * len(ran), "rate": 100.0 * len(ran)}

    monkeypatch.setattr(losses.Losses, "_run", run)
    counted = losses.Losses(1, 1000)
    sent, rate, direct = (
        counted.measure("sent"),
        counted.measure("rate"),
        counted.measure("sent", ("direct",)),
    )
    assert (sent(), rate(), direct()) == (30, 150, 20)
    assert ran == ["mirror", "direct"]
    assert (direct(), sent()) == (30, 70)
    assert ran == ["mirror", "direct", "direct", "mirror"]


def test_many_flips_are_for_counting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netns.uinput.available", lambda: True)
    for wrong in (options(flips=0), options(flips=5000), options(flips=5000, case=["mirror/1"])):
        with pytest.raises(UsageError, match="any number for leaked, "):
            flip.run(wrong)
    with pytest.raises(UsageError, match="no case x"):
        flip.run(options(flips=100, case=["x"]))


def test_percentiles() -> None:
    assert common.percentile([7.0], 99) == 7
    assert common.percentile([float(n) for n in range(101)], 99) == 99
    assert common.percentile([3.0, 1.0, 2.0], 50) == 2


def test_cycles_stand_beside_what_is_packets() -> None:
    found = {
        "machine": {"mhz": 2450},
        "cases": [
            {"unit": "Mpps", "value": 24.5, "peers": {"memif": 10.0}},
            {"unit": "us", "value": 1.0, "peers": {}},
        ],
    }
    first, second = ring.with_cycles(found)["cases"]
    assert first["cycles"] == {"hostsim": 100.0, "memif": 245.0}
    assert "cycles" not in second
    assert "cycles" not in ring.with_cycles({**found, "machine": {"mhz": None}, "cases": [second]})


def test_several_peers_in_one_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parser = Parser()
    ring.add_arguments(parser)
    assert parser.parse_args(["--peer", "rte_ring,memif"]).peer == ["rte_ring", "memif"]
    with pytest.raises(UsageError, match="'ovs' is none of memif, rte_ring, limit, eventfd"):
        parser.parse_args(["--peer", "ovs"])
    against = {case.name: set(case.peers) for case in ring.cases(["rte_ring", "memif", "limit"])}
    assert against["64/shared"] == {"rte_ring", "memif"}
    assert against["64/isolated"] == {"memif", "limit"}
    monkeypatch.setattr(ring, "RTE", tmp_path / "nothing")
    with pytest.raises(HostsimError, match="bench ring --peer rte_ring: is not installed"):
        ring.run(parser.parse_args(["--peer", "rte_ring"]))


# -- the page -------------------------------------------------------------------------------------

ABOUT = page.About("today", "abc & d", "hostsim bench --html x", {"flip": "no <uinput>"})


@pytest.mark.parametrize(
    ("most", "top", "step"),
    [(0, 1, 1), (1, 1, 0.2), (9.1, 10, 2), (42, 50, 10), (0.03, 0.03, 0.01), (1234, 1250, 250)],
)
def test_an_axis_has_few_round_numbers(most: float, top: float, step: float) -> None:
    assert page.scale(most) == pytest.approx((top, step))


@given(st.floats(1e-6, 1e9))
def test_an_axis_ends_behind_all_values(most: float) -> None:
    top, step = page.scale(most)
    assert most <= top * (1 + 1e-9)
    assert top <= 2.5 * most
    assert 1 <= round(top / step) <= page.TICKS


def test_each_run_is_a_dot_of_a_page_that_needs_nothing_else() -> None:
    case = common.Case("64/x", "Mpps", lambda: 2.0, {"peer": lambda: 1.0})
    found = ring.with_cycles(common.run("ring", [case], options()))
    text = page.page({"ring": ("hostsim bench ring", found)}, ABOUT)
    assert "abc &amp; d" in text
    assert "no &lt;uinput&gt;" in text
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    (picture,) = re.findall(r"<svg.*?</svg>", text)
    drawn = ElementTree.fromstring(picture.replace("&times;", "x"))
    assert [dot.get("class") for dot in drawn.iter("circle")] == ["ours"] * 3 + ["peer"] * 3
    ours, peer = (float(dot.get("cx", "")) for dot in list(drawn.iter("circle"))[2:4])
    assert ours - page.LEFT == pytest.approx(2 * (peer - page.LEFT), abs=0.2)
    assert any("2.00" in (one.text or "") for one in drawn.iter("text"))


def test_a_page_of_benches_that_fail_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "b.html"
    program = tmp_path / "hostsim"
    answer = json.dumps(common.run("loop", [common.Case("c", "s", lambda: 1.0)], options()))
    program.write_text(
        f"#!/bin/sh\n[ $2 = loop ] && echo '{answer}' && exit\n"
        "echo 'hostsim: bench up: no ip' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert together.run(["loop"], [], str(file)) == 0
    assert "without figures" not in file.read_text()
    assert together.run(["loop", "up"], ["--runs", "1"], str(file)) == 1
    assert "up: bench up: no ip" in file.read_text()
    assert "hostsim bench loop --runs 1" in file.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.html", "hostsim"]
    with pytest.raises(HostsimError, match=r"bench --html /nowhere/b\.html: No such file"):
        together.run(["loop"], [], "/nowhere/b.html")
