# SPDX-License-Identifier: Apache-2.0
"""The laboratory: programs, sockets and scapy in VMs of a host that a program brings up."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from help.waiting import until
from hostsim import Host, HostsimError
from hostsim.lab import answers
from hostsim.lab.program import CommandError

pytestmark = pytest.mark.root

SERVER = "198.18.0.20"
TEXT = """
[host]
name = "{name}"
[[endpoint]]
name = "client"
address = ["198.18.0.10/24", "fd00:18::10/64"]
[[endpoint]]
name = "server"
address = ["198.18.0.20/24", "fd00:18::20/64"]
[[vm]]
name = "fw"
address = "198.18.0.1/24"
[[vm]]
name = "ids"
address = "198.18.0.2/24"
[[route]]
match = {{ proto = "udp" }}
through = ["fw", "ids"]
[[route]]
match = {{ proto = "icmp" }}
through = ["fw", "ids"]
"""


def text(number: int = 0) -> str:
    return TEXT.format(name=f"lab{number}x{os.getpid()}")


def open_files() -> dict[str, str]:
    """Our descriptors, and what they are."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def ours() -> tuple[dict[str, str], set[threading.Thread]]:
    """Descriptors of this process, and threads."""
    return open_files(), set(threading.enumerate())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host.from_toml(text()) as made:
        yield made


# -- programs -------------------------------------------------------------------------------------


def test_programs_run_in_the_vm(host: Host) -> None:
    client = host["client"]
    done = client.run("sh", "-c", "hostname; echo oops >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "client\n", "oops\n")
    assert client.run("cat", input="told").stdout == "told"
    assert client.run("sh", "-c", "echo $MARK", env={"MARK": "x"}).stdout == "x\n"
    with pytest.raises(CommandError, match="sh in client: ended with status 3: bad") as failed:
        client.run("sh", "-c", "echo bad; exit 3", check=True)
    assert (failed.value.returncode, failed.value.stdout) == (3, "bad\n")
    with pytest.raises(HostsimError, match="no-such-program: not found in client"):
        client.run("no-such-program")
    assert client.run("cat", input=b"told").stdout == "told"
    for wrong, why in (("ip addr", "ip addr: not found in client; write it in words"), ("", "no")):
        with pytest.raises(HostsimError, match=why):
            client.run(wrong)
    for words, why in (((["ip", "addr"],), "takes a list"), (("ping", "-c", 1), "1 is no text")):
        with pytest.raises(HostsimError, match=why):
            client.run(*words)
    with pytest.raises(CommandError, match=r"still ran after 0\.1 s, and was ended"):
        client.run("sleep", "60", timeout=0.1)


def test_a_program_ends_with_its_block(host: Host) -> None:
    before = ours()
    with host["server"].popen("sh", "-c", "echo ready; exec sleep 60") as program:
        assert program.wait_for("^ready$").group() == "ready"
        assert program.returncode is None
    assert program.returncode == -signal.SIGTERM
    assert program.output == "ready\n"
    with pytest.raises(CommandError, match="has not written 'ready' before it ended with 0"):
        host["server"].popen("true").wait_for("ready")
    host["server"].close()
    assert ours() == before


def test_pipes_are_text(host: Host) -> None:
    with host["client"].popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        cat.stdin.write("to and fro\n")
        cat.stdin.flush()
        assert cat.stdout.readline() == "to and fro\n"


def test_a_talk_with_a_program(host: Host) -> None:
    """More than a pipe holds, both ways at once; and what came before a timeout is not lost."""
    client, pipe = host["client"], subprocess.PIPE
    said = "to and fro\n" * 100_000
    with client.popen("sh", "-c", "tee /dev/stderr", stdin=pipe, stdout=pipe, stderr=pipe) as tee:
        assert tee.communicate(said, timeout=60) == (said, said)
        assert tee.returncode == 0
        with pytest.raises(HostsimError, match="sh in client: has been told all"):
            tee.communicate("more")
    with client.popen("cat", stdin=pipe) as cat:
        assert cat.communicate(b"kept", timeout=60) == ("kept", "")
    with client.popen("sh", "-c", "echo first; echo >&2 up; exec sleep 60", stdout=pipe) as slow:
        slow.wait_for("up", within=60)
        with pytest.raises(TimeoutError, match="sh in client still runs after 0 s"):
            slow.communicate(timeout=0)
        slow.terminate()
        assert slow.communicate(timeout=60) == ("first\n", "up\n")
        assert slow.returncode == -signal.SIGTERM
        with pytest.raises(HostsimError, match="sh in client: has no standard input"):
            slow.communicate("more")
    with client.popen("sh", "-c", "sleep 60 & echo $!", stdout=pipe) as parent:
        assert parent.stdout is not None
        child = parent.stdout.readline().strip()
        parent.wait(60)
        with pytest.raises(TimeoutError, match="sh in client has ended, but what it started"):
            parent.communicate(timeout=0)
        client.run("sh", "-c", f"kill {child}")
        assert parent.communicate(timeout=60) == ("", "")
    with client.popen("true", stdin=pipe) as deaf:
        assert deaf.communicate(said, timeout=60) == ("", "")


def test_a_program_has_its_directory(host: Host) -> None:
    client = host["client"]
    assert client.run("pwd", cwd="/usr").stdout == "/usr\n"
    assert client.run("pwd", cwd=Path("/run/hostsim/no-such")).stdout == "/\n"
    with client.popen("pwd", cwd="/usr/lib") as program:
        assert program.communicate(timeout=60) == ("/usr/lib\n", "")


# -- sockets --------------------------------------------------------------------------------------


def test_sockets_of_two_vms_in_one_process(host: Host) -> None:
    server = host["server"].socket(socket.AF_INET, socket.SOCK_DGRAM)
    client = host["client"].socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.settimeout(5)
        server.bind((SERVER, 7000))
        host["server"].wait_for_port(7000, "udp")
        client.sendto(b"hello", (SERVER, 7000))
        said, (address, _) = server.recvfrom(100)
        assert (said, address) == (b"hello", "198.18.0.10")
    with pytest.raises(HostsimError, match="udp port 7000: nothing listens after 0"):
        host["server"].wait_for_port(7000, "udp", within=0)


def test_a_library_that_opens_its_own_socket(host: Host) -> None:
    with host["fw"].inside():
        names = [name for _, name in socket.if_nameindex()]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((SERVER, 1))
            assert sock.getsockname()[0] == "198.18.0.1"
    assert "eth0" in names
    assert [name for _, name in socket.if_nameindex()] != names


# -- scapy ----------------------------------------------------------------------------------------


def test_scapy_asks_from_the_vm(host: Host) -> None:
    host["client"].close()
    before = ours()
    scapy = host["client"].scapy
    answer = scapy.sr1(IP(dst=SERVER) / ICMP(id=7), timeout=5)
    assert answer[IP].src == SERVER
    assert answer[IP].dst == "198.18.0.10"
    assert answer[IP].ttl == 62  # two routers on the way
    asked = scapy.srp1(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=SERVER), timeout=5)
    assert asked[ARP].psrc == SERVER
    answered, silent = scapy.srloop(IP(dst=SERVER) / ICMP(id=8), count=3, inter=0.01, timeout=5)
    assert (len(answered), len(silent)) == (3, 0)
    answered, silent = scapy.sr([IP(dst=SERVER) / ICMP(id=n) for n in range(20)], timeout=5)
    assert (len(answered), len(silent)) == (20, 0)
    host["client"].close()
    assert ours() == before


def test_checksums_and_large_segments_come_as_on_a_wire(host: Host) -> None:
    """The kernel leaves both to a card that is not there."""

    def last(packet: Packet) -> bool:
        return bool(packet[TCP].flags.F)

    data = bytes(range(256)) * 400
    sniffer = host["server"].scapy.AsyncSniffer(filter="tcp and dst port 7001", stop_filter=last)
    sniffer.start()
    listening = host["server"].socket()
    with listening, host["client"].socket() as client:
        listening.bind((SERVER, 7001))
        listening.listen()
        client.settimeout(10)
        listening.settimeout(10)
        client.connect((SERVER, 7001))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        taken = listening.accept()[0]
        with taken, taken.makefile("rb") as stream:
            assert stream.read() == data
    sniffer.join(10)
    packets = sniffer.results
    assert max(len(packet) for packet in packets) <= 1514
    found: dict[int, bytes] = {}
    first = min(packet[TCP].seq for packet in packets if packet[TCP].flags.S) + 1
    for packet in packets:
        again = packet.copy()
        del again[IP].chksum, again[TCP].chksum
        assert bytes(again) == bytes(packet)
        if Raw in packet:
            found[(packet[TCP].seq - first) % (1 << 32)] = packet[Raw].load
    assert b"".join(found[at] for at in sorted(found)) == data


def test_a_vlan_tag_comes_back(host: Host) -> None:
    client, server = host["client"].scapy, host["server"].scapy
    with server.here():
        mac = server.conf.iface.mac
    sniffer = server.AsyncSniffer(filter="udp port 7002 or vlan", count=1)
    sniffer.start()
    frame = Ether(dst=mac) / Dot1Q(vlan=7, prio=3) / IP(dst=SERVER) / UDP(dport=7002)
    client.sendp(frame)
    sniffer.join(10)
    (packet,) = sniffer.results
    assert (packet[Dot1Q].vlan, packet[Dot1Q].prio) == (7, 3)
    assert packet[IP].src == "198.18.0.10"


def test_a_bridge_of_sockets_between_two_vms(host: Host) -> None:
    """Frames that come in at one VM are sent on by another one; this process carries them."""
    fw, ids = host["fw"].scapy, host["ids"].scapy
    seen = threading.Event()
    with fw.L2socket(filter="udp port 7003") as left, ids.L2socket(filter="udp port 9") as right:
        heard: list[bytes] = []

        def bridge() -> None:
            found = fw.bridge_and_sniff(left, right, count=1, timeout=10, started_callback=seen.set)
            heard.extend(bytes(packet[Raw].load) for packet in found)

        catcher = host["ids"].scapy.AsyncSniffer(filter="udp port 7003", count=1)
        catcher.start()
        thread = threading.Thread(target=bridge)
        thread.start()
        assert seen.wait(10)
        with fw.here():
            mac = fw.conf.iface.mac
        host["client"].scapy.sendp(
            Ether(dst=mac) / IP(dst="198.18.0.99", ttl=1) / UDP(dport=7003) / Raw(b"over")
        )
        thread.join(10)
        catcher.join(10)
    assert heard == [b"over"]
    assert catcher.results[0][Raw].load == b"over"


def test_threads_and_hosts_do_not_mix(host: Host) -> None:
    """Two hosts have the same addresses; each thread sees its own, and the machine's stay."""
    machine = repr(conf.route)
    with Host.from_toml(text(1)) as other:
        found: dict[str, set[str]] = {host.name: set(), other.name: set()}
        wrong: list[str] = []

        def ask(one: Host, number: int) -> None:
            scapy = one["client"].scapy
            for again in range(5):
                answer = scapy.sr1(IP(dst=SERVER) / ICMP(id=number, seq=again), timeout=10)
                if answer is None:
                    wrong.append(f"{one.name}: no answer")
                    return
                with scapy.here():
                    found[one.name].add(Ether(bytes(Ether() / IP(dst=SERVER))).dst)

        threads = [
            threading.Thread(target=ask, args=(one, number))
            for number in range(3)
            for one in (host, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert [len(macs) for macs in found.values()] == [1, 1]
        assert found[host.name] != found[other.name]
    assert repr(conf.route) == machine


# -- questions ------------------------------------------------------------------------------------


def test_what_a_host_says_is_typed(host: Host) -> None:
    host["client"].run("ping", "-c", "3", "-i", "0.01", SERVER, check=True)
    status = host.status()
    assert status.host == host.name
    assert [node.name for node in status.vms] == ["fw", "ids"]
    assert {port.state for port in status.switch.ports} == {"up"}
    flows = host.flows("icmp:*")
    assert flows
    assert {hop.vm for flow in flows for hop in flow.hops} == {"fw", "ids"}
    assert host.flows("icmp:*", limit=1) == flows[:1] or len(host.flows("icmp:*", limit=1)) == 1
    assert not any(row.missing for row in host.verify())
    assert {row.key[:4] for row in host.verify("icmp:*")} == {"icmp"}
    assert len(host.verify(limit=1)) == 1
    assert host.verify("icmp:*", limit=0) == []
    assert [route.index for route in host.routes()] == [0, 1]
    told = host.explain("client", "udp:198.18.0.10:5>198.18.0.20:6")
    assert (told.route, told.next, [hop.vm for hop in told.hops]) == (0, "fw", ["fw", "ids"])
    assert isinstance(told, answers.Explanation)
    assert list(host) == ["fw", "ids", "client", "server"]
    assert host["fw"].status() == status.vms[0]
    assert host.explain(host["client"], told.flow).next == "fw"
    pings = {(row.from_, row.to): row.ms for row in host.ping()}
    assert pings["client", "server"] is not None
    with pytest.raises(HostsimError, match="has no operating systems"):
        host.flip(host["fw"])
    for port, proto in (("80", "tcp"), (80, "sctp")):
        with pytest.raises(HostsimError, match=r"server: wait_for_port: .* is none; a number"):
            host["server"].wait_for_port(port, proto)  # type: ignore[arg-type]
    with pytest.raises(HostsimError, match="nobody: no VM or endpoint"):
        host["nobody"]
    with pytest.raises(HostsimError, match="is not a flow"):
        host.explain("client", "nonsense")


def test_a_test_asserts_by_which_path_its_packets_went(host: Host) -> None:
    with host["client"].popen("ping", "-i", "0.02", "-q", SERVER):
        flow = host.expect("icmp:198.18.0.10:*", within=10)
        assert [(hop.vm, hop.path) for hop in flow.hops] == [("fw", "veth"), ("ids", "switch")]
        assert any(rule.path == "veth" for rule in host.rules("icmp:*"))
        with pytest.raises(HostsimError, match=r"not by ring within 0 s .*explain: .* route 1"):
            host.expect(flow.key, path="ring", within=0)
    with pytest.raises(HostsimError, match=r"not seen within 0 s; explain: .*no route"):
        host.expect("tcp:198.18.0.10:1>198.18.0.20:2", within=0)
    with pytest.raises(HostsimError, match="path = 'vet' is not allowed; path is one of switch"):
        host.expect("tcp:*", path="vet", within=60)


def test_a_policy_that_is_applied(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text().replace('through = ["fw", "ids"]', 'through = ["ids"]'))
    assert host.apply(file).routes == 2
    assert host.explain("client", "udp:198.18.0.10:5>198.18.0.20:6").next == "ids"
    file.write_text(text().replace("udp", "nonsense"))
    with pytest.raises(HostsimError, match=r"policy\.toml"):
        host.apply(file)
    assert host.apply_toml(text()).routes == 2
    assert host.explain("client", "udp:198.18.0.10:5>198.18.0.20:6").next == "fw"
    shorter = text().rpartition("[[route]]")[0]
    assert host.apply_toml(shorter, dry_run=True).routes == 1
    assert len(host.routes()) == 2
    with pytest.raises(HostsimError, match=r"host\.toml"):
        host.apply_toml(text().replace("udp", "nonsense"))
    with pytest.raises(HostsimError, match="has no operating systems"):
        host.flip("fw")


# -- the end of things ----------------------------------------------------------------------------


STARTS = """
import signal, sys
from hostsim import Host
with Host.from_toml(sys.argv[1]):
    signal.pause()
"""


def test_ctrl_c_while_a_host_is_built_ends_the_program(tmp_path: Path) -> None:
    """As it would anywhere else: pytest goes on after an error, and stops after this."""
    name = f"labc{os.getpid()}"
    many = "".join(f'[[vm]]\nname = "v{number}"\n' for number in range(40))
    words = (sys.executable, "-P", "-c", STARTS, TEXT.format(name=name) + many)
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as program:
        until(lambda: any(one.startswith(f"hs-{name}-") for one in os.listdir("/run/netns")), 60)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=90)
    assert program.returncode == -signal.SIGINT, said
    assert not any(one.startswith(f"hs-{name}-") for one in os.listdir("/run/netns"))


def test_a_host_that_is_attached_to_stays_up(host: Host) -> None:
    with Host.attach(host.name) as again:
        assert again["client"].run("hostname").stdout == "client\n"
    assert host.status().host == host.name
    with pytest.raises(HostsimError, match="host nobody: is not up"):
        Host.attach("nobody")
    with pytest.raises(HostsimError, match="is up already"):
        Host.from_toml(text()).up()


def test_a_vm_that_died_and_a_host_that_is_down() -> None:
    before = ours()
    host = Host.from_toml(text(2))
    with pytest.raises(HostsimError, match="is not up"):
        host["client"]
    with host:
        fw, client = host["fw"], host["client"]
        assert fw.scapy.sr1(IP(dst=SERVER) / ICMP(), timeout=5) is not None
        server = client.popen("sleep", "60")
        os.kill(next(vm.pid for vm in host.status().vms if vm.name == "fw"), signal.SIGKILL)
        until(lambda: host.status().vms[0].state == "dead")
        for use in (
            lambda: fw.run("true"),
            lambda: fw.socket(),
            lambda: fw.scapy.sr1(IP(dst=SERVER) / ICMP(), timeout=1),
            lambda: fw.scapy.L2socket(),
            lambda: fw.scapy.AsyncSniffer().start(),
        ):
            with pytest.raises(HostsimError, match="fw: is gone"):
                use()
    assert server.returncode == -signal.SIGKILL
    for use in (lambda: client.run("true"), lambda: client.socket(), lambda: host.flows()):
        with pytest.raises(HostsimError, match="is not up"):
            use()
    host.down()
    assert ours() == before


def test_what_the_program_of_a_vm_has_written() -> None:
    program = "\nrun = \"sh -c 'seq 1000; exec sleep 60'\"\n"
    with Host.from_toml(text(3).replace('"198.18.0.2/24"', f'"198.18.0.2/24"{program}')) as host:
        until(lambda: host["ids"].logs().endswith("1000\n"))
        assert host["ids"].logs(2) == "999\n1000\n"
        with pytest.raises(HostsimError, match="fw: has no log; it has no program"):
            host["fw"].logs()
        with pytest.raises(HostsimError, match="server: has no log"):
            host["server"].logs()
        ids = host["ids"]
    with pytest.raises(HostsimError, match="is not up"):
        ids.logs()


def test_a_host_whose_daemon_was_killed() -> None:
    from hostsim.cli import client

    host = Host.from_toml(text(3)).up()
    (daemon,) = [one["pid"] for one in client.hosts() if one["host"] == host.name]
    os.kill(daemon, signal.SIGKILL)
    until(lambda: all(one["pid"] == 0 for one in client.hosts() if one["host"] == host.name))
    with pytest.raises(HostsimError, match="its daemon died"):
        host.flows()
    with pytest.raises(HostsimError, match="its daemon died"):
        host.down()
    assert host.name in client.clean()


# -- captures -------------------------------------------------------------------------------------


def test_a_capture_has_scapys_packets_with_their_way(host: Host) -> None:
    before = ours()
    with host.capture(match='proto = "icmp"') as seen:
        host["client"].run("ping", "-c", "3", "-i", "0.05", SERVER, check=True)
        first = seen.wait_for(lambda packet: packet.path == "eth0", within=30)
    assert ours() == before
    assert seen.lost == 0
    assert (first[ICMP].type, first.vm, first.reply, first.drop) == (8, "client", False, "")
    asked = [packet for packet in seen if packet[ICMP].type == 8]
    assert {packet[IP].dst for packet in asked} == {SERVER}
    by_number = {number: [p for p in asked if p[ICMP].seq == number] for number in (1, 2, 3)}
    for way in by_number.values():
        assert len({packet.ident for packet in way}) == 1
        assert {packet.route for packet in way} == {1}
        assert [p.vm for p in way if p.path in ("switch", "veth")] == ["client", "fw", "ids"]
        assert [p.time for p in way] == sorted(p.time for p in way)
    assert len(seen) == len(seen.packets) > 3 * 2 * 5
    assert bytes(first) == bytes(seen[0])


def test_a_capture_keeps_so_many_packets_and_counts_the_others(host: Host) -> None:
    with host.capture("client", match='proto = "udp"', most=2, snap=60) as seen:
        with host["client"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(5):
                sock.sendto(bytes(100), (SERVER, 9))
        packet = seen.wait_for(lambda packet: packet.vm == "client", within=30)
    assert (len(seen), seen.lost > 2) == (2, True)
    assert (len(packet), packet.wirelen) == (60, 142)
    with pytest.raises(HostsimError, match="has been used"), seen:
        pass
    with pytest.raises(HostsimError, match="not seen within"):
        seen.wait_for(lambda packet: False, within=0)


def test_a_capture_that_cannot_be(host: Host) -> None:
    before = ours()
    for words, match in ((("nosuch",), None), ((), "x")):
        with pytest.raises(HostsimError), host.capture(*words, match=match):
            pass
    assert ours() == before
