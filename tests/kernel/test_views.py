# SPDX-License-Identifier: Apache-2.0
"""metrics, graph and top of a host that is up, as a person and as Prometheus use them."""

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from prometheus_client.parser import text_string_to_metric_families

from help.cli import HOSTSIM, ask, hostsim, run, up
from help.waiting import until
from hostsim.views import metrics

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def edge() -> Iterator[None]:
    with up("edge"):
        hostsim("exec", "client", "--", "curl", "-s", *["http://198.18.0.20/"] * 20)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def samples(status: dict[str, Any]) -> dict[Any, float]:
    return {
        (family.name + ("_total" if family.kind == "counter" else ""), frozenset(labels)): value
        for family in metrics.families(status)
        for labels, value in family.samples
        if family.name != "hostsim_loop_stall_seconds"  # since it was asked last
    }


def test_what_is_scraped_is_the_status(edge: None) -> None:
    port = free_port()
    words = (HOSTSIM, "metrics", "--listen", str(port))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            page = server.stdout.readline().strip()
            assert page == f"http://127.0.0.1:{port}/metrics"

            def same() -> bool:
                """A packet between the two answers makes them differ: they are asked again."""
                with urllib.request.urlopen(page, timeout=30) as answer:
                    text = answer.read().decode()
                found = {
                    (sample.name, frozenset(sample.labels.values())): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                }
                assert found.pop(("hostsim_up", frozenset({"edge"}))) == 1
                found = {key: value for key, value in found.items() if "loop" not in key[0]}
                return found == samples(ask("status"))

            assert until(same, 30)
            taken = hostsim("metrics", "--listen", str(port), check=False)
            assert (taken.returncode, taken.stdout) == (1, "")
            assert taken.stderr.startswith(f"hostsim: metrics --listen 127.0.0.1:{port}: Address")
            assert len(taken.stderr.splitlines()) == 1
        finally:
            server.terminate()
        assert server.wait(30) == 0


def test_once_and_what_promtool_says(edge: None) -> None:
    text = hostsim("metrics").stdout
    done = subprocess.run(
        ("promtool", "check", "metrics"), input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_picture_in_each_language(edge: None, tmp_path: Path) -> None:
    for name, begins in (("g.svg", "<?xml"), ("g.dot", "digraph"), ("g.mmd", "flowchart")):
        hostsim("graph", "--seconds", "0", "-o", str(tmp_path / name))
        assert (tmp_path / name).read_text().startswith(begins)
    words = [one.text for one in ElementTree.parse(tmp_path / "g.svg").iter() if one.text]
    assert {"fw", "ids", "client", "server"} <= set(words)
    assert any("veth" in word for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.dot", "g.mmd", "g.svg"]
    full = hostsim("graph", "--seconds", "0", "-o", "/nowhere/g.svg", check=False)
    assert full.returncode == 1
    assert full.stderr == "hostsim: graph -o /nowhere/g.svg: No such file or directory\n"
    wrong = hostsim("graph", "-o", "g.gif", check=False)
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)


def test_the_live_view_in_a_terminal_of_forty_columns(edge: None, tmp_path: Path) -> None:
    server = ("tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null")
    size = ("-x", "40", "-y", "20")
    ended = f"{HOSTSIM} top; echo status $?; exec cat"
    # The server that this starts keeps the files it is given.
    subprocess.run((*server, "new-session", "-d", *size, ended), check=True, timeout=60)

    def screen() -> str:
        return run(*server, "capture-pane", "-p").stdout

    def shows(*words: str) -> None:
        try:
            until(lambda: all(word in screen() for word in words), 25)
        except AssertionError:
            pytest.fail(f"no {words} in\n{screen()}")

    try:
        shows("edge", "fw→ids", "/s")
        assert all(len(line) <= 40 for line in screen().splitlines())
        run(*server, "send-keys", "/nosuchflow", "Enter")
        shows("flow (0)")
        run(*server, "send-keys", "q")
        shows("status 0")
    finally:
        run(*server, "kill-server")


def test_without_a_terminal_it_is_one_line(edge: None) -> None:
    done = hostsim("top", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hostsim: top: needs a terminal")
