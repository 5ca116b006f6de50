# SPDX-License-Identifier: Apache-2.0
"""The decision in Python: which row, which way round, which VM is next."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from cext.switch.records import BRIDGE, DROP, STEER, Row, Tuple
from hostsim import keys
from hostsim.errors import HostFileError, UsageError
from hostsim.hostfile.file import parse
from hostsim.routing import matchtext, policy

HEAD = """
[host]
name = "p"
[[endpoint]]
name = "c"
address = "198.18.0.10/24"
[[vm]]
name = "a"
[[vm]]
name = "b"
"""
NUMBERS = {"a": 1, "b": 2, "c": 3}


def rows(*matches: str) -> tuple[Row, ...]:
    text = "".join(f'[[route]]\nmatch = {{ {one} }}\nthrough = ["a"]\n' for one in matches)
    spec = parse(HEAD + text, Path("p.toml"))
    return policy.compile_lists(spec.routes, (), (), NUMBERS).routes


def first(key: str, **more: object) -> policy.First:
    return policy.First(keys.parse_key(key), **more)  # type: ignore[arg-type]


WEB = "tcp:198.18.0.10:40000>198.18.0.20:80"


@pytest.mark.parametrize(
    ("match", "key", "more", "hit"),
    [
        ('proto = "tcp"', WEB, {}, True),
        ('proto = "udp"', WEB, {}, False),
        ('proto = "tcp", dport = [22, "79-81"]', WEB, {}, True),
        ('proto = "tcp", dport = [22, "81-90"]', WEB, {}, False),
        ('proto = "tcp", sport = 80', WEB, {}, False),
        ('src = "198.18.0.0/24"', WEB, {}, True),
        ('src = ["10.0.0.0/8", "fd00::/8"], dst = "198.18.0.20/32"', WEB, {}, False),
        ('src = "fd00::/8"', "udp:[fd00::1]:1>[fd00::2]:2", {}, True),
        ('from = "c"', WEB, {"origin": 3}, True),
        ('from = ["a", "b"]', WEB, {"origin": 3}, False),
        ('proto = "tcp", tcp_flags = "syn,!ack"', WEB, {"tcp_flags": 2}, True),
        ('proto = "tcp", tcp_flags = "syn,!ack"', WEB, {"tcp_flags": 18}, False),
        ("dscp = 46", WEB, {"dscp": 46}, True),
        ("dscp = 46", WEB, {"dscp": 0}, False),
        ("vlan = 7", WEB, {}, False),
        ("vlan = 7", "tcp@7:1.1.1.1:1>1.1.1.2:2", {}, True),
        ('ethertype = "ipv6"', WEB, {}, False),
        ('ethertype = "ipv4"', WEB, {}, True),
        ("ethertype = 0x88b5", WEB, {}, False),
        ('sni = "*.example.com"', WEB, {}, False),
        ('sni = "*.example.com"', WEB, {"names": (("sni", "a.b.example.com"),)}, True),
        ('sni = "*.example.com"', WEB, {"names": (("sni", "example.com"),)}, False),
        ('sni = "example.com"', WEB, {"names": (("http_host", "example.com"),)}, False),
    ],
)
def test_one_row(match: str, key: str, more: dict[str, object], hit: bool) -> None:
    assert (policy.first_match(rows(match), first(key, **more)) is not None) is hit


def test_the_first_row_wins() -> None:
    table = rows('proto = "udp"', 'proto = "tcp", dport = 80', 'proto = "tcp"')
    assert policy.judge(table, first(WEB, tcp_flags=2)) == policy.Judgement(1, 1, False)


def test_long_lists_take_several_rows() -> None:
    ports = ", ".join(str(port) for port in range(1, 41, 2))
    table = rows(f'proto = "tcp", dport = [{ports}]')
    assert len(table) == 3
    hits = [
        port
        for port in range(1, 50)
        if policy.first_match(table, first(f"tcp:1.1.1.1:9>1.1.1.2:{port}")) is not None
    ]
    assert hits == list(range(1, 41, 2))


def test_which_way_round_a_connection_goes() -> None:
    table = rows('proto = "tcp", dport = 80')
    back = "tcp:198.18.0.20:80>198.18.0.10:40000"
    assert policy.judge(table, first(WEB, tcp_flags=2)).reply is False
    assert policy.judge(table, first(back, tcp_flags=18)) == policy.Judgement(0, 0, True)
    # in the middle of a connection nobody remembers
    assert policy.judge(table, first(back, tcp_flags=16)) == policy.Judgement(0, 0, True)
    assert policy.judge(table, first(WEB, tcp_flags=16)) == policy.Judgement(0, 0, False)
    # Whoever sends a packet with the server's address and port 80, the chain is not passed by
    assert policy.judge(table, first(back, tcp_flags=2)) == policy.Judgement(0, 0, True)
    assert policy.judge(table, first(WEB, tcp_flags=18)) == policy.Judgement(0, 0, False)
    # but a new connection from there that has a row of its own is a new connection
    table = rows('proto = "tcp", dport = 80', 'proto = "tcp", sport = 80')
    assert policy.judge(table, first(back, tcp_flags=2)) == policy.Judgement(1, 1, False)


def test_an_address_tells_where_a_connection_came_from() -> None:
    """A reply has the chain of its request by `from` too, though nobody remembers the request."""
    table = rows('from = "c", proto = "udp"')
    asked, answer = "udp:198.18.0.10:6000>198.18.0.20:53", "udp:198.18.0.20:53>198.18.0.10:6000"
    owners = {ip_address("198.18.0.10").packed: NUMBERS["c"]}
    assert policy.judge(table, first(asked, origin=3)) == policy.Judgement(0, 0, False)
    assert policy.judge(table, first(answer, origin=9)) == policy.Judgement(None, None, False)
    assert policy.judge(table, first(answer, origin=9), owners) == policy.Judgement(0, 0, True)
    # and whoever sends with that address from elsewhere comes from both
    assert policy.judge(table, first(asked, origin=9), owners) == policy.Judgement(0, 0, False)


def test_contents_may_still_decide() -> None:
    table = rows('sni = "x.org"', 'proto = "tcp"')
    one = first(WEB, tcp_flags=2)
    assert policy.undecided(table, one, policy.first_match(table, one))
    named = first(WEB, names=(("sni", "y.org"),))
    assert not policy.undecided(table, named, policy.first_match(table, named))
    assert not policy.undecided(rows('proto = "tcp"', 'sni = "x.org"'), one, 0)
    for key, match, may in (
        ("icmp:1.1.1.1:7>1.1.1.2:7", 'dns_name = "x.org"', False),
        ("udp:1.1.1.1:7>1.1.1.2:53", 'sni = "x.org"', False),
        ("udp:1.1.1.1:7>1.1.1.2:53", 'dns_name = "x.org"', True),
        ("tcp:1.1.1.1:7>1.1.1.2:53", 'dns_name = "x.org"', True),
    ):
        table = rows(match, "dscp = 0")
        assert policy.undecided(table, first(key), policy.first_match(table, first(key))) is may


def test_the_next_hop() -> None:
    chain, everyone = (1, 2, 5), (1, 2, 3, 5)

    def hop(vm: int, reply: bool, alive: tuple[int, ...] = everyone, skip: bool = False) -> tuple:  # type: ignore[type-arg]
        found = policy.next_hop(chain, vm, reply, alive.__contains__, skip)
        return found.action, found.to, found.position

    assert hop(9, False) == (STEER, 1, 0)
    assert hop(1, False) == (STEER, 2, 1)
    assert hop(5, False) == (BRIDGE, 0, 3)
    assert hop(9, True) == (STEER, 5, 2)
    assert hop(1, True) == (BRIDGE, 0, 3)
    assert hop(1, False, (1, 3, 5)) == (DROP, 2, 1)
    assert hop(1, False, (1, 3, 5), skip=True) == (STEER, 5, 2)
    assert hop(1, False, (1, 3), skip=True) == (BRIDGE, 0, 3)


@pytest.mark.parametrize(
    "key",
    [
        WEB,
        "udp:[fd00:18::10]:53>[fd00:18::20]:5353",
        "icmp:198.18.0.10:77>198.18.0.20:77",
        "icmp:198.18.0.10>198.18.0.20",
        "47:198.18.0.10>198.18.0.20",
        "tcp@12:198.18.0.10:1>198.18.0.20:2",
        "0x88b5:02:00:00:00:00:01>02:00:00:00:00:02",
        "0x88b5@7:02:00:00:00:00:01>02:00:00:00:00:02",
    ],
)
def test_keys_there_and_back(key: str) -> None:
    assert keys.key_text(keys.parse_key(key)) == key


@pytest.mark.parametrize(
    "key", ["", "tcp", "tcp:1.2.3.4>1.2.3.5", "x:1.2.3.4:1>1.2.3.5:1", "tcp:1.2.3.4:1>[::1]:1",
            "tcp:1.2.3.4:70000>1.2.3.5:1", "300:1.2.3.4>1.2.3.5", "tcp@4095:1.2.3.4:1>1.2.3.5:1",
            "0x88b5:02:00:00:00:00:01>02:00:00:00:00",
            "tcp:1.2.3.4:+1>1.2.3.5:1", "udp:1.2.3.4:1_0>1.2.3.5:1", "tcp:1.2.3.4:-1>1.2.3.5:1",
            "icmp:1.2.3.4:5>1.2.3.5:6", "-1:1.2.3.4>1.2.3.5", "tcp:[fe80::1%eth0]:1>[fe80::2]:1",
            "0x05dc:02:00:00:00:00:01>02:00:00:00:00:02"],
)  # fmt: skip
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(UsageError):
        keys.parse_key(key)


def test_a_frame_that_is_not_ip_has_a_key() -> None:
    one = Tuple(0, 0, bytes(range(6)), 0x88B5, bytes(range(6, 12)), 0)
    assert keys.key_text(one) == "0x88b5:00:01:02:03:04:05>06:07:08:09:0a:0b"
    assert keys.key_text(Tuple(4, 6, ip_address("1.1.1.1").packed, 1, bytes(4), 2)).startswith(
        "tcp:1.1.1.1:1>"
    )


@pytest.mark.parametrize(
    "match",
    ['proto = "tcp", vlan = 5000', "dscp = 64", 'tcp_flags = "syn"',
     'proto = "tcp", tcp_flags = "x"',
     'ethertype = "arp"', 'ethertype = 0x88b5, src = "198.18.0.0/24"', 'from = "nobody"',
     'sni = "a..b"', 'sni = "*"', 'src = "198.18.0.0/24", dst = "fd00::/8"',
     'proto = "udp", sni = "x.org"', 'ethertype = "ipv6", src = "198.18.0.0/24"'],
)  # fmt: skip
def test_what_can_never_match_is_refused(match: str) -> None:
    with pytest.raises(HostFileError):
        rows(match)


@pytest.mark.parametrize(
    ("wide", "narrow", "never"),
    [
        ('proto = "tcp"', 'proto = "tcp", dport = 80', True),
        ('proto = "tcp", dport = "1-100"', 'proto = "tcp", dport = [22, "79-80"]', True),
        ('proto = "tcp", dport = "1-100"', 'proto = "tcp", dport = [22, 443]', False),
        ('src = "198.18.0.0/15"', 'src = "198.18.7.0/24", proto = "udp"', True),
        ('src = "198.18.7.0/24"', 'src = "198.18.0.0/15"', False),
        ('proto = "tcp"', 'proto = "tcp", vlan = 7', False),
        ('proto = "tcp"', 'sni = "x.org"', False),
        ('sni = ["x.org", "y.org"]', 'sni = "x.org"', True),
        ('proto = "tcp", tcp_flags = "syn"', 'proto = "tcp"', False),
        ('from = "a"', 'from = "a", dscp = 3', True),
        ('src = "fd00::/8"', "ethertype = 0x88b5", False),
    ],
)
def test_a_route_that_never_matches(wide: str, narrow: str, never: bool) -> None:
    text = "".join(f'[[route]]\nmatch = {{ {one} }}\nthrough = ["a"]\n' for one in (wide, narrow))
    routes = parse(HEAD + text, Path("p.toml")).routes
    assert matchtext.shadowed(routes) == ([(routes[1], routes[0])] if never else [])


def test_a_match_is_shown_as_it_was_written() -> None:
    text = (
        '[[route]]\nmatch = { proto = "tcp", dport = [80, "90-99"], from = "c", dscp = 46, '
        'tcp_flags = "syn,!ack", vlan = 7, sni = "*.x.org" }\nthrough = ["a"]\n'
    )
    (route,) = parse(HEAD + text, Path("p.toml")).routes
    assert matchtext.match_json(route.match) == {
        "proto": "tcp",
        "dport": [80, "90-99"],
        "from": "c",
        "dscp": 46,
        "tcp_flags": "syn,!ack",
        "vlan": 7,
        "sni": "*.x.org",
    }


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("udp:198.18.0.10:1>224.0.0.251:5353", True),
        ("udp:198.18.0.10:1>239.255.255.255:5353", True),
        ("udp:0.0.0.0:68>255.255.255.255:67", True),
        ("udp:[fd00::1]:1>[ff02::fb]:5353", True),
        ("udp:198.18.0.10:1>198.18.0.255:5353", False),  # a subnet's: only its hosts know
        ("udp:198.18.0.10:1>223.0.0.1:5353", False),
        ("udp:198.18.0.10:1>240.0.0.1:5353", False),
        ("udp:[fd00::1]:1>[fe80::1]:5353", False),
    ],
)
def test_what_is_to_a_group(key: str, group: bool) -> None:
    assert policy.to_group(keys.parse_key(key)) is group
