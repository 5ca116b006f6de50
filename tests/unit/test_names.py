# SPDX-License-Identifier: Apache-2.0
"""What hostsim shows of a match or a flow by name, it reads back to the same match or flow."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cext.switch.records import Tuple
from hostsim import names
from hostsim.errors import HostFileError
from hostsim.hostfile import matches
from hostsim.hostfile.table import Table
from hostsim.keys import key_text, parse_key
from hostsim.model import MatchSpec
from hostsim.routing.matchtext import match_json


def read(match: dict[str, Any]) -> MatchSpec:
    """A match as the host file has it. Raises HostFileError."""
    table = Table("p.toml", 0, "[[route]]", {"match": match, "through": ["a"]})
    return matches.route(table, 0, ("a", "b"), ("c", "d")).match


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of them, or a list of them."""
    return values | st.lists(values, min_size=1, max_size=3)


def network(address: bytes, length: int) -> str:
    bits = len(address) * 8
    return str(ip_network((address, min(length, bits)), strict=False))


def flag_words(word: tuple[str, bool]) -> str:
    return word[0] if word[1] else f"!{word[0]}"


NUMBERS = st.integers(0, 65535)
PORTS = some(NUMBERS | st.tuples(NUMBERS, NUMBERS).map(lambda p: f"{min(p)}-{max(p)}"))
NETWORKS = some(
    st.builds(
        network,
        st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
        st.integers(0, 128),
    )
)
HOSTS = some(
    st.from_regex(r"(\*\.)?[a-zA-Z0-9_]{1,9}(\.[a-z0-9-]{0,3}[a-z0-9]){0,3}", fullmatch=True)
)
FLAGS = st.lists(
    st.tuples(st.sampled_from(sorted(names.TCP_FLAGS)), st.booleans()).map(flag_words),
    min_size=1,
    max_size=8,
    unique_by=lambda word: word.removeprefix("!"),
)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "src": NETWORKS,
        "dst": NETWORKS,
        "proto": st.integers(0, 255) | st.sampled_from(sorted(names.PROTOCOLS)),
        "sport": PORTS,
        "dport": PORTS,
        "from": some(st.sampled_from(("a", "b", "c", "d"))),
        "tcp_flags": FLAGS.map(",".join),
        "dscp": st.integers(0, 63),
        "vlan": st.integers(1, names.VLAN_MAX),
        "ethertype": st.sampled_from(sorted(names.ETHERTYPES)) | st.integers(0x600, 0xFFFF),
        "sni": HOSTS,
        "http_host": HOSTS,
        "dns_name": HOSTS,
    },
)


@settings(max_examples=600)
@given(MATCHES)
def test_what_routes_shows_the_host_file_reads(match: dict[str, Any]) -> None:
    try:
        spec = read(match)
    except HostFileError:
        assume(False)
    assert read(match_json(spec)) == spec


@pytest.mark.parametrize("number", range(256))
def test_every_protocol_is_shown_as_it_may_be_written(number: int) -> None:
    spec = read({"proto": number})
    assert read(match_json(spec)) == spec


@pytest.mark.parametrize(("name", "number"), names.PROTOCOLS.items())
def test_every_name_of_a_protocol_may_be_written(name: str, number: int) -> None:
    assert read({"proto": name}).proto == number
    ports = {"proto": name, "dport": 7}
    if number in names.HAS_PORTS:
        assert read(ports).dport == ((7, 7),)
    else:
        with pytest.raises(HostFileError, match="port"):
            read(ports)


def ip_flow(size: int) -> st.SearchStrategy[Tuple]:
    address = st.binary(min_size=size, max_size=size)

    def build(proto: int, src: bytes, dst: bytes, ports: tuple[int, int], vlan: int) -> Tuple:
        sport, dport = ports
        if proto in names.ICMP:
            dport = sport
        elif proto not in names.HAS_PORTS:
            sport = dport = 0
        return Tuple(4 if size == 4 else 6, proto, src, sport, dst, dport, vlan)

    return st.builds(
        build,
        st.integers(0, 255),
        address,
        address,
        st.tuples(NUMBERS, NUMBERS),
        st.integers(0, names.VLAN_MAX),
    )


def frame(kind: int, src: bytes, dst: bytes, vlan: int) -> Tuple:
    return Tuple(0, 0, src, kind, dst, 0, vlan)


MAC = st.binary(min_size=6, max_size=6)
FRAMES = st.builds(
    frame,
    st.integers(names.ETHERTYPE_MIN, 0xFFFF),
    MAC,
    MAC,
    st.integers(0, names.VLAN_MAX),
)


@settings(max_examples=400)
@given(ip_flow(4) | ip_flow(16) | FRAMES)
def test_the_key_of_every_flow_is_read_back(flow: Tuple) -> None:
    assert parse_key(key_text(flow)) == flow


def test_the_tables_name_each_thing_once() -> None:
    for table in (names.PROTOCOLS, names.ETHERTYPES, names.TCP_FLAGS):
        assert len(set(table.values())) == len(table)
    assert set(names.PROTOCOL_NAMES) >= names.HAS_PORTS | names.ICMP
