# SPDX-License-Identifier: Apache-2.0
"""The shipped host `edge`, from outside: the commands a person types, real traffic, real tools."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.cli import HOSTSIM, Done, ask, hostsim, run, up
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

PAGE = "http://198.18.0.20/"


@pytest.fixture
def edge() -> Iterator[None]:
    with up("edge"):
        yield


def curl(*urls: str) -> Done:
    words = ("curl", "-sS", "--max-time", "10", *(urls or (PAGE,)))
    return hostsim("exec", "client", "--", *words, check=False)


def test_a_page_through_the_chain_and_past_the_switch(edge: None) -> None:
    """One connection, kept open: its first packets by the switch, the rest past it."""
    assert "Hello" in curl().stdout
    assert curl(*[PAGE] * 50).stdout.count("Hello") == 50
    flows = [row for row in ask("flows") if row["key"].endswith(">198.18.0.20:80")]
    assert flows
    for flow in flows:
        assert [hop["vm"] for hop in flow["hops"]] == ["fw", "ids"]
        assert all(hop["packets"] > 0 and hop["reason"] for hop in flow["hops"])
    assert until(lambda: any(row["path"] == "veth" for row in ask("rules")))
    assert any(hop["path"] == "veth" for row in ask("flows") for hop in row["hops"])


def port(name: str) -> dict[str, Any]:
    (found,) = [row for row in ask("status")["switch"]["ports"] if row["name"] == name]
    return dict(found)


def test_the_switch_no_longer_counts_the_hop(edge: None) -> None:
    """Once its rules are there, nothing of a flow passes between fw and ids by the switch."""
    ping = ("exec", "client", "--", "ping", "-q", "-i", "0.01", "-W", "1", "198.18.0.20", "-c")
    with subprocess.Popen([HOSTSIM, *ping, "400"], stdout=subprocess.PIPE, text=True) as pinging:
        assert until(lambda: {rule["vm"] for rule in ask("rules")} == {"fw", "ids"})
        before = port("ids")["tx_packets"], port("fw")["tx_packets"]
        assert pinging.stdout is not None
        said = pinging.stdout.read()
    after = port("ids")["tx_packets"], port("fw")["tx_packets"]
    assert " 0% packet loss" in said
    # ids gets the replies from the server by the switch, fw the requests of the client, up to 400
    # each; before the bypass each got both, up to 800. ARP asks a few times beside them.
    assert 0 < after[0] - before[0] <= 410
    assert 0 < after[1] - before[1] <= 410


def test_telnet_is_refused_until_the_rule_is_gone(edge: None) -> None:
    words = ("exec", "server", "--", *program("tcp", "sink", 23))
    connect = program("tcp", "connect", "198.18.0.20", 23, 3)
    with subprocess.Popen([HOSTSIM, *words], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        for _ in range(5):
            refused = hostsim("exec", "client", "--", *connect, check=False)
            assert refused.returncode != 0
            assert "ConnectionRefused" in refused.stderr, refused.stderr
        hostsim("exec", "fw", "--", "nft", "flush", "chain", "inet", "fw", "forward")
        said = hostsim("exec", "client", "--", *connect).stdout
        assert said == "connected\n"
        listener.terminate()


def test_outside_tools_work_on_the_namespaces(edge: None) -> None:
    status = ask("status")
    namespaces = [node["netns"] for node in (*status["vms"], *status["endpoints"])]
    listed = run("ip", "netns", "list").stdout.split()
    assert {*namespaces, status["switch"]["netns"]} <= set(listed)
    assert "198.18.0.1/24" in run("ip", "netns", "exec", "hs-edge-fw", "ip", "-4", "addr").stdout
    bridge = status["switch"]["bridge"]
    links = run("ip", "-n", status["switch"]["netns"], "link", "show", "master", bridge).stdout
    for name in ("client", "server", "fw", "ids"):
        assert f" {name}@" in links
        # The kernel tells at once of a link that has two numbers, and else once a second.
        eth0 = json.loads(run("ip", "-n", f"hs-edge-{name}", "-j", "link", "show", "eth0").stdout)
        assert eth0[0]["ifindex"] != eth0[0]["link_index"]
    dump = ("tcpdump", "-i", "eth0", "-n", "-c", "4", "-U", "--immediate-mode", "tcp port 80")
    with subprocess.Popen(
        ["ip", "netns", "exec", "hs-edge-ids", *dump],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sniffer:
        assert sniffer.stderr is not None
        stderr = sniffer.stderr
        until(lambda: "listening on" in stderr.readline())
        curl()
        seen = sniffer.communicate(timeout=10)[0]
    assert "198.18.0.10." in seen


def test_scapy_sends_and_receives_through_the_chain(edge: None) -> None:
    said = hostsim("exec", "client", "--", *program("raw", "syn", "198.18.0.20")).stdout.split()
    assert said == ["SA", "198.18.0.20", "62"]  # two routers on the way back


def test_exec_passes_status_and_names_what_is_missing(edge: None) -> None:
    assert hostsim("exec", "fw", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    gone = hostsim("exec", "nobody", "--", "true", check=False)
    assert gone.returncode == 1
    assert gone.stderr.startswith("hostsim: nobody: no VM or endpoint")
    (fw,) = [vm for vm in ask("status")["vms"] if vm["name"] == "fw"]
    os.kill(fw["pid"], signal.SIGKILL)
    until(lambda: [vm["state"] for vm in ask("status")["vms"]] == ["dead", "running"])
    gone = hostsim("exec", "fw", "--", "true", check=False)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "gone" in gone.stderr


def test_a_second_up_is_refused(edge: None) -> None:
    again = hostsim("up", "edge", check=False)
    assert again.returncode == 1
    assert "is up already" in again.stderr
    assert "Hello" in curl().stdout
    assert [row["state"] for row in ask("ls") if row["host"] == "edge"] == ["up"]


def test_kill_9_of_the_daemon_then_clean_then_up() -> None:
    hostsim("up", "edge")
    (host,) = [row for row in ask("ls") if row["host"] == "edge"]
    ping = ("ping", "-q", "-i", "0.01", "-c", "500", "198.18.0.20")
    with subprocess.Popen(
        ["ip", "netns", "exec", "hs-edge-client", *ping], stdout=subprocess.DEVNULL
    ) as traffic:
        os.kill(host["pid"], signal.SIGKILL)
        dead = {"host": "edge", "pid": 0, "state": "dead"}
        until(lambda: dead in ask("ls"))
        refused = hostsim("up", "edge", check=False)
        assert refused.returncode == 1
        assert "hostsim clean" in refused.stderr
        assert "edge" in hostsim("clean").stdout
        traffic.kill()
    assert dead not in ask("ls")
    assert "hs-edge" not in run("ip", "netns", "list").stdout
    hostsim("up", "edge")
    assert "Hello" in curl().stdout
    hostsim("--host", "edge", "down")


HEAD = '[host]\nname = "wrong"\n'
WRONG = {
    "unknown key": HEAD + "colour = 1\n",
    "vm missing": HEAD + '[[route]]\nmatch={proto="tcp"}\nthrough=["x"]\n',
    "syntax": "[host\n",
    "unknown NF": HEAD + '[[vm]]\nname = "a"\nnf = "no_such"\n',
    "program that fails": HEAD + '[[vm]]\nname = "a"\nrun = "false"\n',
    "program that is not there": HEAD + '[[vm]]\nname = "a"\nrun = "/no/prog"\n',
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_host_file_makes_nothing(case: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(WRONG[case])
    refused = hostsim("up", str(file), check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("hostsim: ")
    assert refused.stderr.count("\n") == 1
    assert "wrong" not in [row["host"] for row in ask("ls")]
    assert not Path("/run/hostsim/wrong").exists()
    assert "hs-wrong" not in run("ip", "netns", "list").stdout


def test_all_that_have_an_address_hear_each_other(edge: None) -> None:
    rows = ask("ping")
    assert len(rows) == 4 * 3
    assert all(row["ms"] is not None for row in rows), rows
    hostsim("link", "server", "down")
    done = hostsim("ping", check=False)
    assert done.returncode == 1
    assert done.stdout.count("lost") == 6
    assert done.stderr == ""


def test_the_log_of_a_program(edge: None) -> None:
    curl()
    assert until(lambda: '"GET / HTTP/1.1" 200' in hostsim("logs", "server").stdout)
    following = (HOSTSIM, "logs", "server", "-f", "-n", "0")
    with subprocess.Popen(following, stdout=subprocess.PIPE) as log:
        try:
            assert log.stdout is not None
            os.set_blocking(log.stdout.fileno(), False)
            said = log.stdout.raw  # type: ignore[attr-defined]
            assert until(
                lambda: curl(f"{PAGE}?again") and b"?again" in (said.read(4096) or b""), 20
            )
        finally:
            log.send_signal(signal.SIGINT)
    assert log.returncode == 130
    done = hostsim("logs", "client", check=False)
    assert done.returncode == 1
    assert "has no log" in done.stderr


def test_up_and_down_as_json() -> None:
    up = json.loads(hostsim("up", "edge", "--json").stdout)
    assert up["host"] == "edge"
    os.kill(up["pid"], 0)
    assert json.loads(hostsim("down", "--json").stdout) == {"host": "edge"}


@pytest.mark.parametrize("name", ["fw", "server"])
def test_a_vm_that_is_restarted(edge: None, name: str) -> None:
    """Alive, and dead: it is there again, with its program, and in its chain."""
    for alive in (True, False):
        pid = next(row["pid"] for row in nodes() if row["name"] == name)
        if not alive:
            os.kill(pid, signal.SIGKILL)
            until(lambda: "dead" in {row["state"] for row in nodes()})
        assert "is up again" in hostsim("restart", name).stdout
        assert {row["state"] for row in nodes()} == {"running"}
        assert pid != next(row["pid"] for row in nodes() if row["name"] == name)
        assert until(lambda: "Hello" in curl().stdout)
        rules = hostsim("exec", "fw", "--", "nft", "list", "ruleset").stdout
        assert "23" in rules
    assert not [row for row in ask("verify") if row["missing"]]


def nodes() -> list[dict[str, Any]]:
    status = ask("status")
    return [*status["vms"], *status["endpoints"]]


def test_what_is_not_to_be_restarted_gets_one_line(edge: None) -> None:
    done = hostsim("restart", "nobody", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no VM or endpoint" in done.stderr
