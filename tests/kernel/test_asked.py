# SPDX-License-Identifier: Apache-2.0
"""Long answers: a child of the daemon gives them, while the daemon goes on; they come whole, or in
the part that was asked for."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, host, hostsim, run
from help.waiting import until
from hostsim import daemon, protocol
from hostsim.host import NICE

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NAME = "hsasked"
PORTS = 3000
FILE = f"""
[host]
name = "{NAME}"
[[endpoint]]
name = "client"
address = "198.18.60.1/24"
[[vm]]
name = "fw"
address = "198.18.60.2/24"
[[endpoint]]
name = "server"
address = "198.18.60.3/24"
[[route]]
match = {{ proto = "udp" }}
through = ["fw"]
"""
SEND = f"""
import socket
for port in range(1, {PORTS} + 1):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("198.18.60.1", 10000 + port))
        sock.sendto(b"x", ("198.18.60.3", 7))
        if port % 100 == 0:
            sock.settimeout(0.05)
            try:
                sock.recv(1)
            except OSError:
                pass
"""


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A host with PORTS flows; its daemon's pid."""
    with host(FILE, tmp_path_factory.mktemp("asked")):
        hostsim("--host", NAME, "exec", "client", "--", "python3", "-c", SEND)
        (pid,) = [row["pid"] for row in ask("ls") if row["host"] == NAME]
        yield int(pid)


def children(pid: int) -> list[int]:
    """Of the daemon, those that are copies of it."""
    found = []
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if Path(f"/proc/{one}/comm").read_text().strip() == daemon.NAME:
                found.append(int(one))
    return found


def test_a_long_list_is_whole_and_part_of_it_is_that_part(flooded: int) -> None:
    rows = ask("flows", NAME)
    keys = {row["key"] for row in rows}
    wanted = {f"udp:198.18.60.1:{10000 + n}>198.18.60.3:7" for n in range(1, PORTS + 1)}
    assert wanted <= keys
    assert len(rows) > 2 * protocol.ROWS
    part = ask("flows", NAME, "--match", "198.18.60.1:1000?>")
    assert part == []
    part = ask("flows", NAME, "--match", "udp:198.18.60.1:1000?>*")
    assert {row["key"] for row in part} == {key for key in wanted if ":1000" in key}
    assert len(ask("flows", NAME, "--limit", "7")) == 7
    assert [row["key"] for row in ask("flows", NAME, "--match", ":12345>")] == [
        "udp:198.18.60.1:12345>198.18.60.3:7"
    ]
    shown = hostsim("flows", NAME).stdout
    assert all(key in shown for key in wanted)
    assert hostsim("verify", NAME).returncode == 0
    assert ask("routes", "--host", NAME)[0]["packets"] >= PORTS
    told = ask("explain", "--host", NAME, "client", "udp:198.18.60.1:10001>198.18.60.3:7")
    assert (told["route"], told["live"]) == (0, True)


def test_five_ask_at_a_time(flooded: int) -> None:
    """Each has its own answer, and status says how long the loop was busy at most, and with what;
    the questions themselves are no part of it."""
    ask("status", NAME)
    words = [("flows",), ("rules",), ("verify",), ("flows", "--limit", "3"), ("routes",)]
    asking = [
        subprocess.Popen(
            (HOSTSIM, *word, "--host", NAME, "--json"), stdout=subprocess.PIPE, text=True
        )
        for word in words
    ]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in asking]
    assert len(answers[0]) > PORTS
    assert len(answers[3]) == 3
    status = ask("status", NAME)
    assert status["loop_ms"] > 0
    assert status["loop_what"]
    assert status["loop_what"] not in {"status", *(word[0] for word in words)}
    assert status["loop_cpu_ms"] > 0
    until(lambda: not children(flooded), 30)


def test_whoever_does_not_read_holds_nobody_up(flooded: int) -> None:
    asking = []
    try:
        for _ in range(4):
            one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            one.connect(f"/run/hostsim/{NAME}/control.sock")
            one.sendall(protocol.encode({"op": "flows"}))
            asking.append(one)
        until(lambda: len(children(flooded)) == 2, seconds=30, what="as many as may be")
        assert ask("status", NAME)["host"] == NAME
        run(HOSTSIM, "exec", "--host", NAME, "fw", "--", "true")
    finally:
        for one in asking:
            one.close()
    until(lambda: not children(flooded), 30, "nobody hears what they say")


def test_who_does_not_read_its_status_holds_up_no_other_status(flooded: int) -> None:
    with contextlib.ExitStack() as asking:
        for op in ("flows", "flows", "status", "status"):
            one = asking.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.connect(f"/run/hostsim/{NAME}/control.sock")
            one.sendall(protocol.encode({"op": op}))
        assert ask("status", NAME)["host"] == NAME
    until(lambda: not children(flooded), 30, "nobody hears what they say")


def test_the_daemon_comes_before_what_runs_in_vms(flooded: int) -> None:
    """Its threads too, since they have the interpreter's lock by turns; its VMs do not."""
    found: dict[str, int] = {}

    def all_first() -> bool:
        found.clear()
        for task in Path(f"/proc/{flooded}/task").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                name = (task / "comm").read_text().strip()
                found[f"{name} {task.name}"] = os.getpriority(os.PRIO_PROCESS, int(task.name))
        return set(found.values()) == {NICE}

    until(all_first, 10, f"all threads have the priority: {found}")
    group = Path(f"/proc/{flooded}/autogroup")
    if group.exists():
        assert group.read_text().split()[-1] == str(NICE)
    for vm in ask("status", NAME)["vms"]:
        assert os.getpriority(os.PRIO_PROCESS, vm["pid"]) == 0
        group = Path(f"/proc/{vm['pid']}/autogroup")
        assert not group.exists() or group.read_text().split()[-1] == "0"


def test_a_child_that_is_killed_is_no_dead_daemon(flooded: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.connect(f"/run/hostsim/{NAME}/control.sock")
        one.sendall(protocol.encode({"op": "flows"}))
        for child in until(lambda: children(flooded), 30):  # one of them may be an earlier test's
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while one.recv(1 << 20):
            pass
    assert ask("status", NAME)["host"] == NAME


@pytest.mark.parametrize("wrong", [{"match": 7}, {"limit": -1}, {"limit": "x"}])
def test_a_wrong_question_is_answered_with_a_line(flooded: int, wrong: dict[str, object]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.connect(f"/run/hostsim/{NAME}/control.sock")
        one.sendall(protocol.encode({"op": "flows", **wrong}))
        with one.makefile("rb") as lines:
            answer = protocol.decode(lines.readline())
            assert answer["error"]["why"] == "match is text, and limit a number"
            one.sendall(protocol.encode({"op": "explain", "vm": "nobody", "flow": "tcp:x"}))
            assert "is not a flow" in protocol.decode(lines.readline())["error"]["why"]


def test_down_ends_those_that_are_asked(tmp_path: Path) -> None:
    with host(FILE.replace(NAME, "hsasked2"), tmp_path):
        hostsim("--host", "hsasked2", "exec", "client", "--", "python3", "-c", SEND)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.connect("/run/hostsim/hsasked2/control.sock")
            one.sendall(protocol.encode({"op": "flows"}) * 3)
            (pid,) = [row["pid"] for row in ask("ls") if row["host"] == "hsasked2"]
            until(lambda: children(pid), 30)
            hostsim("down", "hsasked2")
        hostsim("up", str(tmp_path / "hsasked2.toml"))


def test_bench_loop_prints_the_contracts_document() -> None:
    """A small one."""
    found = ask("bench", "loop", "--vms", "5", "--seconds", "1")
    (case,) = found["cases"]
    assert (found["bench"], case["case"], case["unit"]) == ("loop", "stall", "ms")
    assert case["value"] > 0
