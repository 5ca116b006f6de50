# SPDX-License-Identifier: Apache-2.0
"""What somebody takes off one of the switch's ports by hand is put back, and that is said: without
its classifier, what comes in by a port would pass no route and no filter; without its queue, what
goes out would not wait."""

import contextlib
import logging
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cext.bpf import objects
from cext.ns.netns import socket_at
from cext.switch import line
from help.cli import hostsim
from help.net import ENDS_V4, Net, made
from help.waiting import until
from hostsim import Host
from hostsim.model import LinkSpec
from hostsim.routing import bypass, impair
from hostsim.switch import CLASSIFIER, Switch
from netns import interfaces, tc

pytestmark = pytest.mark.root

FILTER = '[[filter]]\nmatch = { proto = "icmp" }\n'
CHAIN = """[[vm]]
name = "fw"
[[vm]]
name = "ids"
[[route]]
match = { proto = "icmp" }
through = ["fw", "ids"]
"""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with made("guard", ENDS_V4 + FILTER, tmp_path) as net:
        yield net


def take(net: Net, *words: str) -> None:
    """What root of the machine does to the switch's namespace with tc(8)."""
    subprocess.run(["tc", "-n", net.switch.netns, *words], check=True)


def at(net: Net, port: int, parent: int = tc.INGRESS) -> list[str]:
    return interfaces.filters(net.switch.netns_fd, port, parent)


def pings(net: Net) -> bool:
    words = ("ping", "-q", "-c", "3", "-i", "0.01", "-W", "0.3", "198.18.0.20")
    return " 0 received" not in net.run("client", *words, check=False)


@pytest.mark.stock
@pytest.mark.parametrize("words", ["filter del dev client ingress", "qdisc del dev client clsact"])
def test_a_classifier_that_was_taken_off_is_back(
    net: Net, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    """Defence: the guard, without which the pings that the filter drops pass."""
    assert not pings(net)
    take(net, *words.split())
    until(lambda: at(net, net.vms["client"].port) == [CLASSIFIER])
    said = "client: hostsim:classify was taken off its port and put back, 1 times"
    until(lambda: said in caplog.text)
    (row,) = net.dataplane.report.taken_off()
    assert row["said"].startswith(said)
    assert (row["port"], row["side"], row["times"], row["there"]) == ("client", "in", 1, True)
    assert not pings(net)


def test_again_and_again(net: Net) -> None:
    for _ in range(10):
        take(net, "filter", "del", "dev", "server", "ingress")
        until(lambda: at(net, net.vms["server"].port) == [CLASSIFIER])
    assert not pings(net)
    until(lambda: [row["times"] for row in net.dataplane.report.taken_off()] == [10])


@pytest.mark.parametrize("pref", ["1", "2"])
def test_no_filter_comes_before_it(net: Net, pref: str) -> None:
    """One that lets everything pass past the classifier; the kernel refuses it the first place."""
    words = f"filter add dev client ingress pref {pref} protocol ip u32 match u32 0 0 classid 1:1"
    command = ["tc", "-n", net.switch.netns, *words.split()]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode == 0) == (pref != "1"), done
    assert not pings(net)


@pytest.mark.parametrize("way", ["replace handle 1", "add handle 2"])
def test_one_in_its_place_or_before_it_is_said(
    net: Net, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """It is not called put back while another one is asked first, and that is said once."""
    verb, *handle = way.split()
    place = f"filter {verb} dev client ingress pref 1 {' '.join(handle)} protocol all"
    take(net, *place.split(), "bpf", "bytecode", "1,6 0 0 0,", "classid", "1:1")
    until(lambda: [row["there"] for row in net.dataplane.report.taken_off()] == [False])
    seen = net.dataplane.report.taken_off()[0]
    take(net, "filter", "del", "dev", "client", "ingress", "pref", "1")
    until(lambda: at(net, net.vms["client"].port) == [CLASSIFIER])
    until(lambda: [row["there"] for row in net.dataplane.report.taken_off()] == [True])
    assert net.dataplane.report.taken_off()[0]["times"] >= seen["times"] == 1
    assert caplog.text.count("client: hostsim:classify is not at its port") == 1
    assert not pings(net)


def test_an_impaired_link_stays_so(tmp_path: Path) -> None:
    """Until it is so no more: then nothing is put back."""
    with made("guard", ENDS_V4, tmp_path) as net:
        port = net.vms["server"].port
        assert pings(net)
        net.dataplane.link(LinkSpec("server", "in", down=True))
        assert not pings(net)
        take(net, "filter", "del", "dev", "server", "egress")
        until(lambda: at(net, port, tc.EGRESS) == [impair.PROGRAM])
        assert not pings(net)
        net.dataplane.link(LinkSpec("server"))
        assert net.dataplane.settle()
        take(net, "filter", "del", "dev", "client", "ingress")
        until(lambda: at(net, net.vms["client"].port) == [CLASSIFIER])
        assert at(net, port, tc.EGRESS) == []
        assert pings(net)


def round_trip(net: Net) -> float:
    """ms, of one ping; 0: it was lost."""
    said = net.run("client", "ping", "-c", "1", "-W", "1", "198.18.0.20", check=False)
    found = re.search(r"time=([0-9.]+) ms", said)
    return float(found[1]) if found else 0.0


def taken(net: Net, of: str) -> list[tuple[str, int, bool]]:
    rows = net.dataplane.report.taken_off()
    return [(row["program"], row["times"], row["there"]) for row in rows if row["port"] == of]


def back(net: Net, of: str, name: str, times: int) -> None:
    until(lambda: taken(net, of) == [(name, times, True)])


def seen(net: Net, port: int) -> interfaces.Interface | None:
    with contextlib.closing(interfaces.Interfaces(net.switch.netns_fd)) as own:
        return own.get(port)


def queue(net: Net, vm: str) -> str:
    found = seen(net, net.vms[vm].port)
    return found.qdisc if found else ""


def delete_line(net: Net) -> None:
    subprocess.run(["ip", "-n", net.switch.netns, "link", "del", Switch.line], check=True)


@pytest.mark.stock
@pytest.mark.parametrize("way", ["deleted", "down"])
def test_a_delay_stays_so(tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """What holds packets back is there again, the kernel's queue or the line, until the link is
    impaired no more. What it held before goes at its time."""
    with made("guard", ENDS_V4 + CHAIN, tmp_path) as net:
        until(lambda: pings(net))
        net.dataplane.link(LinkSpec("server", "in", delay=30_000_000))
        until(lambda: round_trip(net) >= 30)
        of, name = "switch", Switch.line
        if seen(net, line.INDEX) is None:
            of, name = "server", "its queue (fq)"
            take(net, "qdisc", "del", "dev", "server", "root")
        elif way == "deleted":
            delete_line(net)
        else:
            down = ["ip", "-n", net.switch.netns, "link", "set", Switch.line, "down"]
            subprocess.run(down, check=True)
        back(net, of, name, 1)
        until(lambda: f"{of}: {name} was taken " in caplog.text)
        until(lambda: round_trip(net) >= 30)
        net.dataplane.link(LinkSpec("server"))
        assert net.dataplane.settle()
        until(lambda: pings(net))
        net.pump()
        net.settled()


def test_the_line_sends_what_it_holds(tmp_path: Path) -> None:
    """Somebody deletes its TAP while a packet waits, and again."""
    with made("guard", ENDS_V4 + CHAIN, tmp_path) as net, contextlib.ExitStack() as sockets:
        near, far = (
            sockets.enter_context(
                socket_at(net.vms[name].netns_fd, socket.AF_INET, socket.SOCK_DGRAM, 0)
            )
            for name in ("client", "server")
        )
        far.settimeout(20)
        far.bind(("198.18.0.20", 7))
        until(lambda: pings(net))
        net.dataplane.link(LinkSpec("server", "in", delay=3_000_000_000))
        if seen(net, line.INDEX) is None:
            return  # this kernel has sch_fq
        near.sendto(b"waits", ("198.18.0.20", 7))

        def held() -> bool:
            (row,) = net.dataplane.links()
            (one,) = net.dataplane._impairments._holding._lines
            unicast = row["packets"] - row["groups"]
            return bool(unicast) and one.counted()["held"] >= row["packets"]

        until(held)
        for times in (1, 2, 3):
            delete_line(net)
            back(net, "switch", Switch.line, times)
        assert far.recv(9) == b"waits"
        net.pump()
        net.settled()


@pytest.mark.stock
def test_a_rate_stays_so(tmp_path: Path) -> None:
    with made("guard", f'{ENDS_V4}[[vm]]\nname = "fw"\nrate = "1mbit"\n', tmp_path) as net:
        for times in (1, 2):
            take(net, "qdisc", "del", "dev", "fw", "root")
            back(net, "fw", "its queue (tbf)", times)
            assert queue(net, "fw") == "tbf"


def test_the_far_end_of_a_direct_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kernel without tcx it is a filter, too: what comes by the link is lost without it."""
    monkeypatch.setattr(objects, "attach_tcx", lambda *_, **__: False)
    for module in (objects, bypass):
        monkeypatch.setattr(module, "has_tcx", lambda: False)
    with made("guard", ENDS_V4 + CHAIN, tmp_path) as net:
        fw, ids = net.vms["fw"].index, net.vms["ids"].index

        def by_veth() -> bool:
            net.ping(5)
            net.pump()
            rows = net.dataplane.report.flows()
            return any(hop["path"] == "veth" for row in rows for hop in row["hops"])

        until(by_veth, 30)
        number = bypass.direct_index(fw, ids)
        take(net, "filter", "del", "dev", f"hsd{fw}-{ids}", "ingress")
        until(lambda: at(net, number) == [bypass.ARRIVAL])
        net.ping(5)


def test_one_that_cannot_be_put_back_is_told_and_tried_again(
    net: Net, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(12, "no memory")]
    put_back = tc.put_back

    def fails_once(*words: object) -> None:
        if failures:
            raise failures.pop()
        put_back(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(tc, "put_back", fails_once)
    take(net, "filter", "del", "dev", "client", "ingress")
    until(lambda: at(net, net.vms["client"].port) == [CLASSIFIER])
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert told[0].startswith("client: hostsim:classify is not at its port")


def test_who_comes_later_is_guarded_too(tmp_path: Path) -> None:
    """By `apply`, and by a restart; `status` says what happened, until that port goes."""
    text = f'[host]\nname = "hsguard"\n{ENDS_V4}'
    with Host.from_toml(text) as host:
        path = tmp_path / "next.toml"

        def apply(more: str) -> None:
            path.write_text(text + more)
            host.apply(str(path))

        def said() -> list[tuple[str, int, bool]]:
            taken = host.status().switch.taken_off
            return [(one.port, one.times, one.there) for one in taken]

        def take_off() -> None:
            words = ("filter", "del", "dev", "fw", "ingress")
            subprocess.run(["tc", "-n", host.status().switch.netns, *words], check=True)

        apply('[[vm]]\nname = "fw"\n')
        take_off()
        until(lambda: said() == [("fw", 1, True)], 30)
        assert "fw: hostsim:classify was taken off its port" in hostsim("status").stdout
        host["fw"].restart()
        assert said() == []
        take_off()
        until(lambda: said() == [("fw", 1, True)], 30)
        apply("")
        assert said() == []
