# SPDX-License-Identifier: Apache-2.0
"""`hostsim apply` with packet functions: they join, leave and change while packets go through them
and past them, and an apply that fails half way changes nothing of that."""

import contextlib
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from cext.ns.netns import socket_at
from help.applied import Files
from help.chain import Chain, chained, route, vm
from help.net import ENDS_V4
from help.waiting import becomes, until
from hostsim import Host, HostsimError
from hostsim.nf import coming
from hostsim.routing import dataplane
from hostsim.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NAME = "hsfj"
HEAD = f'[host]\nname = "{NAME}"\n{ENDS_V4}'
WAYS = ("sent", "switch", "ring")
PORT = 12
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
FILTER = vm("fw", "firewall") + 'default = "accept"\n'
RULE = '[[vm.rule]]\nmatch = { proto = "udp", dport = %d }\ndo = "drop"\n'


def through(names: str, more: str = "") -> str:
    return route(f'proto = "udp", dport = {PORT}', names, f'on_full = "wait"\n{more}')


TWO = vm("one") + vm("two", "count") + through("one two")


FILES = Files(HEAD)
up, apply = FILES.up, FILES.apply


class Packets:
    """Numbered datagrams from the client to the server, for the length of a with block; all of them
    arrive, each once. path: they are known to go by it when the block begins."""

    def __init__(self, host: Host, path: str = "") -> None:
        self.sent = self.came = 0
        self._host, self._path = host, path
        self._end, self._all = threading.Event(), threading.Event()
        self._near, self._far = (
            host[name].socket(socket.AF_INET, socket.SOCK_DGRAM) for name in ("client", "server")
        )
        self._far.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self._far.bind(("198.18.0.20", PORT))
        self._far.settimeout(0.1)
        self._near.connect(("198.18.0.20", PORT))
        self.key = f"udp:198.18.0.10:{self._near.getsockname()[1]}>198.18.0.20:{PORT}"
        self._threads = [
            threading.Thread(target=job, daemon=True) for job in (self._send, self._hear)
        ]

    def __enter__(self) -> "Packets":
        for thread in self._threads:
            thread.start()
        try:
            until(lambda: not self._path or self.paths() == {self._path}, 20, self._path)
        except BaseException:
            self._end.set()
            self._all.set()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for thread, end in zip(self._threads, (self._end, self._all), strict=True):
            end.set()
            thread.join()
        self._near.close()
        self._far.close()
        if kind is None:  # what a function that the machine gave no turn lost is the machine's loss
            nodes = self._host.status().nodes
            late = sum((node.drops or {}).get("function-full", 0) for node in nodes)
            assert (self.sent, self.twice) == (self.came + late, 0), self._host.verify()

    def paths(self) -> set[str]:
        """Those of its hops from VM to VM, now."""
        hops = [hop for flow in self._host.flows(self.key) for hop in flow.hops]
        return {hop.path for hop in hops if hop.to != "bridge"}

    def by(self, path: str) -> int:
        """How many have gone from VM to VM by this path."""
        hops = [hop for flow in self._host.flows(self.key) for hop in flow.hops]
        return sum(hop.paths[path].packets for hop in hops if path in hop.paths)

    def _send(self) -> None:
        while not self._end.wait(0.002):
            self._near.send(struct.pack("!I", self.sent))
            self.sent += 1

    def _hear(self) -> None:
        """Until nothing has come for a while after the last was sent."""
        known: set[bytes] = set()
        self.twice, silent = 0, 0
        while silent < 10 and not (self._all.is_set() and self.came == self.sent):
            try:
                data = self._far.recv(64)
            except TimeoutError:
                silent += self._all.is_set()
                continue
            silent = 0
            self.twice += data in known
            known.add(data)
            self.came = len(known)


def exact(host: Host) -> None:
    """Nothing is missing, and no loss is put down to a function that died."""
    until(lambda: not any(row.missing for row in host.verify()), what="nothing is missing")
    assert not any(row.drops.get("function-died") for row in host.verify())


def function(host: Host, name: str) -> dict[str, Any]:
    (found,) = [node.nf for node in host.status().nodes if node.name == name]
    assert found is not None
    return found


def state(host: Host) -> Any:
    """All that is to be as before."""
    status = host.status()
    return (
        sorted((node.name, node.pid, node.state) for node in status.nodes),
        sorted((node.name, node.nf["pid"]) for node in status.nodes if node.nf),
        sorted(port.name for port in status.switch.ports),
        [(one.match, one.through) for one in host.routes()],
        sorted(name for name in os.listdir("/run/netns") if name.startswith(f"hs-{NAME}-")),
        sorted(one.name for one in Path("/sys/fs/cgroup").glob(f"*/hs-{NAME}/*/")),
    )


def test_the_first_ones_of_a_host_join_and_leave(tmp_path: Path) -> None:
    """While packets are sent that go through them as soon as there is a route."""
    with up("", tmp_path) as host:
        before = state(host)
        with Packets(host) as one:
            done = apply(host, TWO, tmp_path)
            assert done.added == ("one", "two")
            until(lambda: one.by("ring"), 20, "it goes by ring")
            assert function(host, "one")["restarts"] == 0
            gone = apply(host, "", tmp_path)
            assert gone.removed == ("one", "two")
        assert state(host) == before
        exact(host)
        (sent,) = [row for row in host.verify() if row.vm == "one" and row.key == one.key]
        assert sent.ring > 0
        assert sent.sent == sent.ring + sent.switch


@pytest.mark.parametrize("ring", ["isolated", "shared"])
@pytest.mark.parametrize("leaver", ["one", "two", "three"])
def test_the_neighbours_of_one_that_leaves_go_on(leaver: str, ring: str, tmp_path: Path) -> None:
    """Nothing of what it had in hand is lost, nor of what was on its way to it by ring."""
    names = ("one", "two", "three")
    more = f'ring = "{ring}"\n'
    three = "".join(vm(name) for name in names) + through(" ".join(names), more)
    left = [name for name in names if name != leaver]
    two = "".join(vm(name) for name in left) + through(" ".join(left), more)
    with up(three, tmp_path) as host:
        with Packets(host, "ring") as one:
            assert apply(host, two, tmp_path).removed == (leaver,)
            until(lambda: one.paths() == {"ring"}, 20, "it goes by ring again")
            assert apply(host, three, tmp_path).added == (leaver,)
            until(lambda: one.paths() == {"ring"}, 20, "it goes by ring again")
        exact(host)


def test_the_tables_of_one_change_while_packets_pass(tmp_path: Path) -> None:
    """They and its connections stay with the process that runs, and no packet is lost."""
    with up(FILTER + vm("two") + through("fw two"), tmp_path) as host:
        pid = function(host, "fw")["pid"]
        with Packets(host, "ring"):
            for port in range(100, 106):
                done = apply(host, FILTER + RULE % port + vm("two") + through("fw two"), tmp_path)
                assert done.changes == ("the packet function of fw changes",)
        exact(host)
        assert function(host, "fw")["pid"] == pid
        assert "drop-rule-0" in function(host, "fw")["counters"]
        apply(host, FILTER + RULE % PORT + vm("two") + through("fw two"), tmp_path)
        with host["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.bind(("198.18.0.10", 777))
            near.sendto(b"dropped", ("198.18.0.20", PORT))
            becomes(lambda: function(host, "fw")["counters"]["drop-rule-0"], 1)
        apply(host, vm("fw") + vm("two") + through("fw two"), tmp_path)
        with Packets(host, "ring"):
            assert function(host, "fw")["name"] == "forward"
        assert function(host, "fw")["pid"] == pid
        exact(host)


def test_own_functions_change_places(tmp_path: Path) -> None:
    """From one process to another: it is said why, and what is lost has a name."""
    (tmp_path / "mine.py").write_text(
        "def passes(port):\n    for batch in port:\n        port.send(batch)\n"
        "def drops(port):\n    for batch in port:\n"
        "        for at in range(len(batch)):\n            batch.drop(at)\n"
        "        port.send(batch)\n"
    )
    rest = vm("two") + through("one two")
    with up(vm("one", "mine:passes") + rest, tmp_path) as host:
        before = function(host, "one")
        apply(host, vm("one", "mine:drops") + rest, tmp_path)
        until(lambda: function(host, "one")["pid"] not in (None, before["pid"]))
        until(lambda: function(host, "one")["state"] == "running")
        assert function(host, "one")["why"] == "a change by apply"
        with host["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.sendto(b"dropped", ("198.18.0.20", PORT))
            until(lambda: function(host, "one")["counters"].get("dropped"))
        apply(host, vm("one", "mine:passes") + rest, tmp_path)
        until(lambda: function(host, "one")["restarts"] == 2)
        with Packets(host, "ring"):
            pass
        until(lambda: not any(row.missing for row in host.verify()))


def test_a_source_that_joins_sends_by_the_new_routes(tmp_path: Path) -> None:
    source = vm("src", "source") + '[vm.source]\nflow = "udp:198.19.0.1:4>198.18.0.20:12"\n'
    source += "count = 100\nrate = 1000\n"
    with up("", tmp_path) as host:
        apply(host, TWO + source, tmp_path)
        until(lambda: function(host, "src")["counters"].get("made") == 100)
        (flow,) = host.flows("udp:198.19.0.1:*>198.18.0.20:*")
        assert [hop.vm for hop in flow.hops] == ["one", "two"]
        assert flow.hops[0].packets == 100
        assert function(host, "src")["restarts"] == 0
        exact(host)
        apply(host, "", tmp_path)
        exact(host)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (vm("late", "no:such"), "late: nf: 'no:such' did not start: No module named 'no'"),
        (vm("late", "./no.so"), "plug-in no.so: .* is not there"),
        ('[[vm]]\nname = "late"\nrun = "nosuchprogram"\n', "nosuchprogram"),
        ('[[link]]\nof = "client"\ndelay = "5ms"\n' + vm("late") + 'rate = "1mbit"\n', "rate"),
    ],
)
def test_what_fails_half_way_changes_nothing(bad: str, why: str, tmp_path: Path) -> None:
    """One joins, one leaves, one changes; and then one cannot come. Packets go on as before."""
    old = FILTER + vm("two") + vm("three") + through("fw two three")
    new = FILTER + RULE % PORT + vm("three") + vm("good") + through("fw three good")
    with up(old, tmp_path) as host:
        before, known = state(host), function(host, "fw")
        with Packets(host, "ring"):
            for _ in range(3):
                with pytest.raises(HostsimError, match=why):
                    apply(host, new + bad, tmp_path)
                assert state(host) == before
        assert function(host, "fw")["counters"].keys() == known["counters"].keys()
        exact(host)
        assert apply(host, new, tmp_path).added == ("good",)


def test_one_that_cannot_become_what_is_wanted_stays(tmp_path: Path) -> None:
    with up(TWO, tmp_path) as host:
        before = state(host)
        with pytest.raises(HostsimError, match="one: nf: 'no:such' did not start"):
            apply(host, TWO.replace('"forward"', '"no:such"'), tmp_path)
        assert state(host) == before
        with Packets(host, "ring"):
            pass
        exact(host)


def test_jumbo_frames_come_to_a_host_of_small_ones(tmp_path: Path) -> None:
    """Whose functions go on with their own, and take by ring what fits."""
    big = vm("big") + "mtu = 9000\n"
    with up(TWO, tmp_path) as host:
        apply(host, TWO.replace(through("one two"), "") + big + through("one big two"), tmp_path)
        with Packets(host, "ring") as one:
            pass
        hops = {hop.vm: hop.path for hop in host.flows(one.key)[0].hops}
        assert (hops["one"], hops["big"]) == ("ring", "ring")
        exact(host)


def leave(chain: Chain, *names: str) -> None:
    """What the daemon does with those that a new policy has no more."""
    vms: list[Vm] = [chain.net.vms[name] for name in names]
    chain.functions.gone(coming.leave(chain.functions.part(vms)))
    chain.net.dataplane.remove(vms)


def sums(chain: Chain, key: str = "") -> dict[str, dict[str, int]]:
    """The sums of `verify` by function, of flows whose key begins so, once nothing is under way."""
    rows = [row for row in chain.net.settled() if row["key"].startswith(key)]
    return {
        name: {what: sum(row[what] for row in rows if row["vm"] == name) for what in WAYS}
        for name in ("one", "two")
    }


def test_what_one_had_counted_goes_into_the_ended_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a VM that died does; and nothing of it is counted twice, or lost."""
    text = ENDS_V4 + vm("one") + vm("two") + route('proto = "udp"', "one two")
    with chained(text, tmp_path) as made, contextlib.ExitStack() as stack:
        fd = made.net.vms["server"].netns_fd
        far = stack.enter_context(socket_at(fd, socket.AF_INET, socket.SOCK_DGRAM, 0))
        far.bind(("198.18.0.20", 7))  # no error messages
        for _ in range(3):
            made.send(7, 20)
            made.sync()
        until(lambda: made.counter("two", "eth0_out") >= 60)
        plane = made.net.dataplane
        before = sums(made)
        assert before["one"]["ring"] > 0
        leave(made, "two")
        assert sums(made) == before
        monkeypatch.setattr(dataplane, "FLOW_IDLE", 0.0)
        made.functions._aged = float("-inf")
        made.sync()
        plane.tick()
        assert {name: sums(made, "ended")[name] for name in before} == before
        assert not made.functions._former.accounts
