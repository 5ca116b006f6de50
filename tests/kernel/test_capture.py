# SPDX-License-Identifier: Apache-2.0
"""A capture of a host: what is in the file is what `verify` counts, flow by flow."""

import contextlib
import json
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from help.chain import route, vm
from help.cli import HOSTSIM, ask, host, hostsim, up
from help.net import ENDS
from help.programs import program
from help.waiting import until

pytestmark = pytest.mark.root

PING = ("exec", "client", "--", "ping", "-q", "-i", "0.005", "-W", "1", "-c")


@contextlib.contextmanager
def capturing(file: Path, *words: str, end: int = signal.SIGINT) -> Iterator[None]:
    """A capture into a file, which sees everything that happens meanwhile."""
    command = (HOSTSIM, "capture", "-w", str(file), *words)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "hostsim: capturing; ^C ends it\n"
        try:
            yield
        finally:
            running.send_signal(end)
            said = running.stderr.read()
        if end == signal.SIGINT:
            assert said.endswith(" captured, 0 lost\n"), said


def read(file: Path) -> list[list[str]]:
    """Interface and comment of each packet."""
    fields = ("-e", "frame.interface_name", "-e", "frame.comment")
    command = ("tshark", "-r", str(file), "-T", "fields", *fields)
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def settled() -> list[dict[str, Any]]:
    """`verify`, once no late packet changes it any more."""
    rows: list[list[dict[str, Any]]] = [ask("verify")]

    def same() -> bool:
        rows.append(ask("verify"))
        return rows[-1] == rows[-2]

    until(same, 30, "two answers alike")
    return rows[-1]


def test_captured_is_what_verify_counts(tmp_path: Path) -> None:
    file = tmp_path / "edge.pcapng"
    with up("edge"), capturing(file):
        hostsim(*PING, "200", "198.18.0.20")
        hostsim("exec", "client", "--", "curl", "-s", *["http://198.18.0.20/"] * 5)
        rows = settled()
    found: Counter[tuple[str, str, str]] = Counter()
    for interface, comment in read(file):
        vm, _, rest = comment.partition(" ")
        key = next((word for word in rest.split() if ":" in word), "")
        found[vm, key, "veth" if interface.endswith("veth") else interface] += 1
    kept = [row for row in rows if row["key"].startswith(("icmp:", "tcp:")) and not row["drops"]]
    assert any(row["veth"] > 100 for row in kept)
    assert len(kept) > 6
    wanted = {(row["vm"], row["key"]): (row["switch"], row["veth"]) for row in kept}
    assert wanted == {(*one,): (found[*one, "switch"], found[*one, "veth"]) for one in wanted}


def on_interfaces(file: Path) -> Counter[str]:
    """Packets by interface, as the file's blocks have them (IETF draft-ietf-opsawg-pcapng): tshark
    takes a minute where the processor is emulated."""
    data, at, names = file.read_bytes(), 0, []
    found: Counter[str] = Counter()
    while at < len(data):
        kind, length, first = struct.unpack_from("<III", data, at)
        if kind == 1:  # an interface; its first option is its name
            code, size = struct.unpack_from("<HH", data, at + 16)
            assert code == 2
            names.append(data[at + 20 : at + 20 + size].decode())
        elif kind == 6:
            found[names[first]] += 1
        at += length
    return found


@pytest.mark.stock
@pytest.mark.timeout(240)
def test_its_programs_see_what_leaves_arrives_and_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "edge.pcapng"
    with up("edge"), capturing(file):
        telnet = ("curl", "-s", "-m", "20", "telnet://198.18.0.20:23")
        assert hostsim("exec", "client", "--", *telnet, check=False).returncode
        seen = {"client eth0", "fw eth0", "switch", "drop"}
        until(lambda: seen <= on_interfaces(file).keys(), 30, "packets of every kind in the file")


MIXED = (
    """[host]
name = "mixed"
"""
    + ENDS
    + """[[vm]]
name = "fw"
run = "nft add table inet t { chain f { type filter hook forward priority 0; udp dport 7 drop; }; }"
[[vm]]
name = "ids"
"""
    + vm("one")
    + vm("two", "count")
)
BEFORE = MIXED + route('proto = "icmp"', "fw ids one two") + route('proto = "udp"', "one two fw")
AFTER = MIXED + route('proto = "icmp"', "one two ids") + route('proto = "udp"', "one two fw")


def counted(file: Path) -> Counter[tuple[str, str, str]]:
    """Packets of each VM, key, and path or reason of a drop."""
    found: Counter[tuple[str, str, str]] = Counter()
    for interface, comment in read(file):
        fields = comment.split()
        key = next((word for word in fields if ":" in word and word != "dropped:"), "")
        path = interface.rpartition(" ")[2] if interface != "drop" else fields[-1]
        found[fields[0], key, path] += 1
    return found


def test_a_mixed_chain_whose_policy_changes(tmp_path: Path) -> None:
    """Direct links, rings and drops: each flow's packets by each path, to the packet."""
    file, after = tmp_path / "mixed.pcapng", tmp_path / "after.toml"
    after.write_text(AFTER)
    with host(BEFORE, tmp_path):
        with capturing(file):
            command = (HOSTSIM, *PING, "1500", "198.18.0.20")
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as ping:
                until(lambda: paths("one") == {"ring"} and paths("fw") == {"veth"}, 60, "its ways")
                for port in (6, 7):
                    send = program("udp", "send", "198.18.0.20", port, 200, 4000, 80)
                    hostsim("exec", "client", "--", *send)
                hostsim("routes", "apply", str(after))
                assert ping.wait(timeout=120) == 0
            rows = settled()
        found = counted(file)
        again = hostsim("capture", "-w", str(file), "--count", "0")
        assert "0 packets captured" in again.stderr
    kept = [row for row in rows if row["key"].startswith(("icmp:", "udp:"))]
    by_path = Counter[str]()
    for row in kept:
        assert row["missing"] == 0, row
        for path in ("switch", "veth", "ring"):
            by_path[path] += row[path]
            captured = found[row["vm"], row["key"], path]
            # A packet that the kernel dropped behind the switch's port was seen there.
            most = row[path] + sum(row["drops"].values())
            assert row[path] <= captured <= most, (row, path, captured)
        for reason, count in row["drops"].items():
            by_path[reason] += count
            assert found[row["vm"], row["key"], reason] == count, (row, reason)
    assert min(by_path[path] for path in ("switch", "veth", "ring")) > 20, by_path
    assert sum(not row["drops"] for row in kept) > 4
    assert by_path["NETFILTER_DROP"] > 100, by_path


def paths(vm: str) -> set[str]:
    """By which the pings leave a VM."""
    flows = ask("flows", "--match", "icmp:198.18.0.10")
    return {hop["path"] for flow in flows for hop in flow["hops"] if hop["vm"] == vm}


def test_killed_in_the_middle_it_is_readable(tmp_path: Path) -> None:
    file = tmp_path / "killed.pcapng"
    with up("edge"), capturing(file, "client", "--match", 'proto = "icmp"', end=signal.SIGKILL):
        hostsim(*PING, "20", "198.18.0.20")
        assert until(lambda: len(read(file)) >= 40, 30, "40 packets of the client in the file")
    assert {interface for interface, _ in read(file)} <= {"client eth0", "switch", "drop"}


def test_bad_words_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "none.pcapng"
    with up("edge"):
        for words, status, why in (
            (("nosuch",), 1, "no such VM or endpoint"),
            (("--match", "x"), 2, "is no match"),
            (("--snap", "3"), 2, "is not allowed"),
        ):
            done = hostsim("capture", "-w", str(file), *words, check=False)
            assert (done.returncode, done.stdout) == (status, "")
            assert why in done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert not file.exists()
        full = hostsim("capture", "-w", "/dev/full", check=False)
        said = full.stderr.splitlines()
        assert said == ["hostsim: capture -w /dev/full: No space left on device; ended"]


# -- one packet's way -----------------------------------------------------------------------------


@contextlib.contextmanager
def tracing(*words: str) -> Iterator["subprocess.Popen[str]"]:
    """A trace, which sees every packet that is sent meanwhile."""
    command = (HOSTSIM, "trace", *words)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "hostsim: waiting for a packet; ^C ends it\n"
        try:
            yield running
        finally:
            running.kill()


def test_one_packets_way() -> None:
    flow = "icmp:198.18.0.10:*>198.18.0.20:*"
    with up("edge"), tracing("--json", "--within", "60", flow) as running:
        hostsim(*PING, "1", "198.18.0.20")
        said, errors = running.communicate(timeout=60)
    assert errors == ""
    way = json.loads(said)
    places = [(hop["vm"], hop["path"]) for hop in way]
    assert places == [
        (vm, path) for vm in ("client", "fw", "ids") for path in ("eth0", "switch")
    ]  # the first packet of a flow goes by the switch
    assert [hop["route"] for hop in way] == [2] * 6
    assert len({hop["epoch"] for hop in way}) == 1
    times = [hop["us"] for hop in way]
    assert times[0] == 0
    assert times == sorted(times)


def test_a_dropped_packets_way_ends_with_its_reason() -> None:
    with up("edge"), tracing("--within", "60", "tcp:198.18.0.10:*>198.18.0.20:23") as running:
        hostsim(
            "exec", "client", "--", "curl", "-s", "-m", "1", "telnet://198.18.0.20:23", check=False
        )
        said, _ = running.communicate(timeout=60)
    head, *hops = said.splitlines()
    assert head.startswith("tcp:198.18.0.10:")
    assert "  0.0 us  client eth0" in hops[0]
    assert "switch, from client" in hops[1]
    assert "dropped at fw: NETFILTER_DROP" in hops[-1], said


def test_a_trace_that_finds_nothing() -> None:
    with up("edge"):
        none = hostsim("trace", "--within", "0.2", "udp:198.18.0.10:5>198.18.0.20:5", check=False)
        assert none.returncode == 1
        assert "no packet within 0.2 s" in none.stderr
        wrong = hostsim("trace", "198.18.0.10", check=False)
    assert wrong.returncode == 2
    assert "is not a flow" in wrong.stderr
