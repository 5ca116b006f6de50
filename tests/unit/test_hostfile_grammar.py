# SPDX-License-Identifier: Apache-2.0
"""Host files made from the grammar, mostly right: each is read, or refused in one line that has the
file and why. HOSTSIM_FILES=100000 in the environment tries so many.

What is read has every VM and route that was written, and is the same with a byte order mark and
other ends of line.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from cext.switch.records import ROWS_MAX
from hostsim.errors import HostFileError
from hostsim.hostfile import file as hostfile
from hostsim.model import HostSpec
from hostsim.needs import needs
from hostsim.routing import matchtext
from hostsim.routing.policy import count_rows

FILES = int(os.environ.get("HOSTSIM_FILES", "300"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Without shrinking: a file is short enough to be read."""
FOLDER = tempfile.TemporaryDirectory(prefix="hostfiles")
VMS = ("a", "fw")
ENDPOINTS = ("client", "b")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def listed(values: list[str]) -> str:
    return f"[{', '.join(values)}]"


def one_or_list(value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return value | st.lists(value, min_size=1, max_size=3, unique=True).map(listed)


RARELY = 120
"""One value of so many is a wrong one."""


def some(right: list[str], wrong: list[str]) -> st.SearchStrategy[str]:
    """Values of a key, by and large right ones."""
    return st.integers(0, RARELY).flatmap(
        lambda n: st.sampled_from(wrong) | ANYTHING if n == RARELY else st.sampled_from(right)
    )


ANYTHING = (
    st.integers(-2, 70000).map(str)
    | st.sampled_from(["1e3", "0x10", "1_000", "inf", "nan", "true", str(1 << 64), "9" * 40])
    | st.sampled_from(["[]", "{}", "[[1]]", "[{}]", "1979-05-27", '"\\u0000"'])
    | st.sampled_from(["", "a b", "é", "\u202e", "x" * 300, "'", "%s", "{}", "..", "*"]).map(quoted)
    | st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=6).map(quoted)
)
ADDRESSES = st.builds(
    lambda third, last, size: quoted(f"198.18.{third}.{last}/{size}"),
    st.integers(0, 250),
    st.integers(1, 254),
    st.sampled_from([15, 24]),
) | some(['"fd00:18::1/64"', '"fd00:18::2/128"'], ['"198.18.0.1"', '"::/0"', '"224.0.0.1/4"'])
V4 = some(['"198.18.0.0/24"', '"198.18.0.0/15"', '"0.0.0.0/0"', '"198.18.0.1"'], ['"198.18.0.1/8"'])
PORTS = some(['"80-90"', '"1-65535"', "443", "0", '"80"'], ['"90-80"', "65536", "-1", '"+8"'])
HOSTNAMES = some(['"www.example"', '"*.example"', '"a"'], ['"*"', '"a..b"', '"é.example"'])
KNOWN_NAMES = [quoted(name) for name in (*VMS, *ENDPOINTS)]
NAMED = some(KNOWN_NAMES, ['"nobody"', '""', '"switch"', '"A"'])
THROUGH = st.lists(some([quoted(name) for name in VMS], ['"client"', '"nobody"']), min_size=1)
SIZES = some(['"64K"', '"8M"', '"1G"', "131072"], ['"1.5G"', '"0"', '"2048T"', "0"])


def key(name: str, value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A line, or none."""
    return st.just("") | value.map(lambda text: f"{name} = {text}\n")


def table(*keys: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*keys).map("".join)


def match(*keys: tuple[str, st.SearchStrategy[str]]) -> st.SearchStrategy[str]:
    """An inline table with some of these keys, now and then with none."""
    words = st.tuples(*(st.just("") | value.map(f"{name} = {{}}".format) for name, value in keys))
    return words.map(lambda found: "{ " + ", ".join(word for word in found if word) + " }")


WHERE = (("src", one_or_list(V4)), ("dst", one_or_list(V4)), ("from", one_or_list(NAMED)))
WHAT = (
    ("proto", some(['"tcp"', '"udp"'], ['"icmp"', "47", "256"])),
    ("sport", one_or_list(PORTS)),
    ("dport", one_or_list(PORTS)),
)
LOW = match(
    *WHERE, *WHAT, ("dscp", some(["0", "63"], ["64"])), ("vlan", some(["1", "4094"], ["4095"]))
)
FLAGS = some(['"syn"', '"syn,!ack"'], ['"syn,!syn"', '"x"'])
MATCHES = (
    LOW
    | match(*WHERE, ("proto", some(['"tcp"'], ['"udp"'])), ("tcp_flags", FLAGS))
    | match(*WHERE, ("proto", some(['"tcp"'], ['"udp"'])), ("sni", one_or_list(HOSTNAMES)))
    | match(*WHERE, ("http_host", one_or_list(HOSTNAMES)))
    | match(*WHERE, ("dns_name", one_or_list(HOSTNAMES)))
    | match(("proto", some(['"icmp"', '"icmpv6"', '"sctp"', "47"], ['"x"'])))
)
COMMON = (
    key("address", one_or_list(ADDRESSES)),
    key("run", some(['"sleep 9"', "\"sh -c 'x'\""], ['"\'"', '""'])),
    key("mac", some(['"02:00:00:00:00:01"'], ['"ff:ff:ff:ff:ff:ff"', '"02-0"'])),
    key("log_size", SIZES),
    key("mtu", some(["68", "1280", "1500", "9000"], ["67", "9001", "true", "'1500'", "1e3"])),
    key("offload", some(["true", "false"], ["0", "'no'"])),
    key("router", some(["true", "false"], ["0", "'no'"])),
    key("files", some(['"private"', '"shared"'], ['"own"']))
    | key("share", st.lists(some(['"./out"', '"/srv:ro"'], ['"/"', '"/proc/x"'])).map(listed)),
)
VM = table(
    *COMMON,
    key("memory", SIZES),
    key("cpus", some(["0.5", "2", "8192"], ["8193", "0"])),
    key("pids", some(["2", "100"], ["1", "4194305"])),
    key("rate", some(['"10mbit"', '"1gbit"'], ['"1kbit"', '"31gbit"', '"x"'])),
    st.just("") | some(['[vm.os]\nbackground = "freeze"\n', "[vm.os]\n"], ["[vm.x]\n"]),
)
FUNCTION = table(COMMON[0], key("nf", some(['"count"', '"forward"', '"m.x:f"'], ['"?"', '"nat"'])))
ROUTE = table(
    st.one_of(MATCHES.map("match = {}\n".format)),
    THROUGH.map(lambda names: f"through = {listed(list(dict.fromkeys(names)))}\n"),
    key("bypass", some(['"auto"', '"never"', '"ring"', '"veth"'], ['"x"'])),
    key("on_failure", some(['"drop"', '"skip"'], ['"x"'])),
    key("on_full", some(['"drop"', '"wait"'], ['"x"'])),
    key("ring", some(['"isolated"', '"shared"'], ['"x"'])),
)
SWITCH = table(
    st.just("[switch]\n"),
    key("uplinks", one_or_list(some(['"eth1"', '"éth"'], ['"lo"', '"a/b"', '"fw"']))),
    key("take_default_route", some(["true", "false"], ["1"])),
)


def tables(
    head: str, names: tuple[str, ...], body: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    return st.tuples(
        *(body.map(f'[[{head}]]\nname = "{name}"\n{{}}'.format) for name in names)
    ).map("".join)


def several(head: str, body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(body.map(f"[[{head}]]\n{{}}".format), max_size=2).map("".join)


NAME = some(['"h"', '"lab-2"'], ['"A"', '"all"', '""', '"' + "x" * 40 + '"'])
HOSTS = st.tuples(
    NAME.map("[host]\nname = {}\n".format),
    tables("vm", VMS, VM | FUNCTION),
    tables("endpoint", ENDPOINTS, table(*COMMON)),
    several("route", ROUTE),
    several("filter", LOW.map("match = {}\n".format)),
    several("mirror", st.builds("match = {}\nto = {}\n".format, LOW, NAMED)),
    st.just("") | SWITCH,
).map("".join)


def read(text: str) -> HostSpec | str:
    """The model, or why there is none; of a file on a disk."""
    path = Path(FOLDER.name) / "h.toml"
    path.write_bytes(text.encode())
    try:
        return hostfile.load(str(path))
    except HostFileError as error:
        return str(error)


@pytest.mark.timeout(120 + FILES)
@settings(max_examples=FILES, deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)
@given(HOSTS)
def test_a_file_is_read_or_refused_in_one_line(text: str) -> None:
    found = read(text)
    if isinstance(found, str):
        event("refused")
        assert found.startswith("h.toml"), found
        assert "\n" not in found
        assert len(found) < 1000
        assert ": " in found
        return
    event("read")
    nodes = (*found.vms, *found.endpoints)
    assert len(nodes) == text.count("[[vm]]") + text.count("[[endpoint]]")
    assert len(found.routes) == text.count("[[route]]")
    assert count_rows([route.match for route in found.routes], ROWS_MAX) >= len(found.routes)
    assert all(need.wanted >= 0 for need in needs(found, lambda name: 1 << 40))
    list(matchtext.shadowed(found.routes))
    again = read("\ufeff" + text.replace("\n", "\r\n"))
    assert isinstance(again, HostSpec)
    assert (again.vms, again.routes, again.filters) == (found.vms, found.routes, found.filters)
