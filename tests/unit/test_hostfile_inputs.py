# SPDX-License-Identifier: Apache-2.0
"""What a host file must not say: each of these is refused before anything is made, in one line that
names the place and what is allowed. And whatever else a file has, it is read or refused."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.switch import records
from hostsim.errors import HostFileError
from hostsim.hostfile import equipment
from hostsim.hostfile import file as hostfile
from hostsim.hostfile.source import FILE_MAX
from hostsim.model import HostSpec, MatchSpec, OsSpec
from hostsim.routing.policy import count_rows, match_rows

ROOT = Path(__file__).parents[2]
BIG = "9" * 400
MAC = "02:00:00:00:00:0a"
HEX = "0x" + "f" * 5000
"""int() has no limit of digits for these, and str() of the number has one."""


def parse(text: str) -> HostSpec:
    return hostfile.parse(text, Path("/hosts/wrong.toml"))


def refused(text: str) -> str:
    with pytest.raises(HostFileError) as caught:
        parse(text)
    said = str(caught.value)
    assert said.startswith("wrong.toml")
    assert "\n" not in said
    assert len(said) < 1000
    return said


def host(text: str) -> str:
    return f'[host]\nname = "h"\n{text}'


def in_vm(text: str) -> str:
    return host(f'[[vm]]\nname = "a"\n{text}\n')


def in_match(text: str) -> str:
    return in_vm("") + f'[[route]]\nmatch = {{ {text} }}\nthrough = ["a"]\n'


def in_rule(text: str) -> str:
    rule = f'[[vm.rule]]\nmatch = {{ {text} }}\ndo = "accept"'
    return in_vm(f'nf = "firewall"\n{rule}')


def in_filter(text: str) -> str:
    return in_vm("") + f"[[filter]]\nmatch = {{ {text} }}\n"


def in_device(text: str) -> str:
    return in_vm("[vm.os]") + f'[[device]]\nmatch = {{ name = "*" }}\n{text}\n'


def in_kmc(text: str) -> str:
    return in_vm("[vm.os]") + f"[kmc]\n{text}\n"


KEYS_9 = [f"KEY_{letter}" for letter in "ABCDEFGHI"]
Case = tuple[Callable[[str], str], str, str]


def each(place: Callable[[str], str], text: str, why: str, values: str) -> list[Case]:
    """A case for each of these values, which have no blanks in them."""
    return [(place, text.replace("VALUE", value), why) for value in values.split()]


WRONG: list[Case] = [
    # an empty list would match everything
    *each(in_match, "VALUE = []", "is empty", "src dst from sport dport sni http_host dns_name"),
    *each(in_filter, "VALUE = []", "is empty", "src dst from sport dport"),
    *each(in_rule, "VALUE = []", "is empty", "src dst sport dport"),
    # numbers
    *each(in_match, "proto = 'tcp', dport = VALUE", "", f"6.0 80.9 inf -inf nan 1e3 {BIG} {HEX}"),
    *each(in_match, "proto = 'tcp', dport = VALUE", "dport", "true -1 65536 [[80]] {} [80,'']"),
    *each(in_match, "proto = 'tcp', dport = 'VALUE'", "dport", "8_0 +80 80- -80 90-80 80-90-100"),
    *each(in_match, "proto = 'tcp', dport = 'VALUE'", "dport", "0x50 \u0663 ,80 80, 80:90"),
    *each(in_match, "proto = 'tcp', dport = ' 80'", "dport", "VALUE"),
    *each(in_match, f"proto = 'tcp', dport = '{'9' * 5000}'", "dport", "VALUE"),
    *each(in_match, "proto = 'tcp', dport = VALUE", "dport", "1979-05-27"),
    *each(in_match, "proto = VALUE", "", f"6.0 256 -1 true 'TCP' {BIG}"),
    *each(in_match, "dscp = VALUE", "dscp", "1.0 64 -1 '1' true"),
    *each(in_match, "vlan = VALUE", "vlan", "1.5 0 4095 false"),
    *each(in_match, "ethertype = VALUE", "ethertype", "0x5ff 0x10000 2048.0 'ip' true"),
    *each(in_vm, "cpus = VALUE", "cpus", "1e304 8193 0 -1 0.001 true '1'"),
    *each(in_vm, "cpus = VALUE", "", f"inf nan {BIG} {HEX}"),
    *each(in_vm, "pids = VALUE", "pids", "1 0 -5 1e3 4194305 '9'"),
    *each(in_vm, "pids = VALUE", "64 bits", f"{1 << 64} {BIG} {HEX}"),
    *each(in_vm, "memory = 'VALUE'", "memory", "1\u212a 16777216T 0 -1M 1.5G \u0663M 1e6 1KBB"),
    *each(in_vm, f"memory = '{'9' * 5000}'", "memory", "VALUE"),
    *each(in_vm, "memory = VALUE", "memory", "0 -1 1.5 true [1] ''"),
    *each(in_vm, "memory = VALUE", "64 bits", f"{'9' * 30} {HEX}"),
    *each(in_vm, "memory = VALUE", "not TOML", "9" * 5000),
    *each(
        in_vm, "rate = 'VALUE'", "rate", f"{BIG}gbit 1e9bit \u0663mbit 1kbit/s 7999bit 31gbit mbit"
    ),
    *each(in_vm, "log_size = VALUE", "log_size", "65535 0 -1 true 1e9 '2000G' '1Q' []"),
    *each(in_vm, "restart = VALUE", "restart", "true 1 'always' ''"),
    (in_vm, "nf = 'count'\nrestart = 'on-failure'", "both nf and restart"),
    *each(in_vm, "mtu = VALUE", "mtu", "67 0 -1 9001 true 1e3 '1500' []"),
    *each(in_vm, "offload = VALUE", "offload", "0 'no' [] 1.0"),
    *each(in_vm, "router = VALUE", "router", "0 'no' [] 1.0"),
    *each(in_vm, "gateway = VALUE", "gateway", "1 '198.18.0.1' [1] '' 'x' '224.0.0.1' '::' true"),
    *each(
        in_vm, "routes = [VALUE]", "routes", "1 '' 'x' '203.0.113.1/24' '224.0.0.0/4' '10.0.0.0/8'"
    ),
    *each(in_vm, "mac = VALUE", "mac", "1 '' '02:00:00:00:00' '02:00:00:00:00:0g' '020000000001'"),
    *each(in_vm, "mac = '\u0660\u0662VALUE'", "mac", ":00:00:00:00:01"),
    *each(in_vm, "mac = 'VALUE'", "a group's", "01:00:5e:00:00:01 ff:ff:ff:ff:ff:ff"),
    *each(in_vm, "mac = '00:00:00:00:00:00'", "nobody's", "VALUE"),
    (
        in_vm,
        f"mac = '{MAC.upper()}'\n[[endpoint]]\nname = 'b'\nmac = '{MAC}'",
        "belongs to 'b' already",
    ),
    *each(in_vm, "[switch]\ntake_default_route = VALUE", "take_default_route", "1 'yes'"),
    # what can never be so
    (in_match, "proto = 'tcp', tcp_flags = 'syn,!syn'", "syn twice"),
    (in_match, "proto = 'tcp', tcp_flags = 'syn,syn'", "syn twice"),
    (in_match, "proto = 'tcp', tcp_flags = ['syn']", "tcp_flags"),
    (in_match, "proto = 'icmpv6', src = '198.18.0.0/24'", "not in that protocol"),
    (in_match, "proto = 'icmp', dst = 'fd00::/8'", "not in that protocol"),
    (in_match, "proto = 'icmpv6', ethertype = 'ipv4'", "not in that ethertype"),
    # names and addresses
    (in_match, "src = '198.18.0.1/24'", "no bits set"),
    (in_match, "src = ['198.18.0.0/24', 7]", "src = 7"),
    *each(in_match, "sni = 'VALUE'", "host name", f"* a..b {'a' * 300}.example a\u00e9"),
    (in_match, "from = 'A'", "no VM or endpoint"),
    (in_match, f"'{'k' * 5000}' = 1", "unknown key"),
    *each(in_vm, "address = VALUE", "address", "[1] '198.18.0.1' 'x/24' {} '198.18.0.0/24'"),
    *each(in_vm, "address = 'VALUE'", "address", "127.0.0.1/8 198.18.0.1/33 224.0.0.1/24"),
    (in_vm, 'run = "x\\u0000"', "U+0000"),
    (in_vm, 'run = "\'x"', "no command line"),
    (in_vm, "run = '  '", "run is empty"),
    (in_vm, 'nf = "./x\\u0000.so"', "U+0000"),
    (in_vm, '[vm.os]\non_foreground = "a\\u0000"', "U+0000"),
    (in_vm, "[vm.os]\nuinput = 1", "true or false"),
    # equipment
    *each(in_device, "hotkey = VALUE", "hotkey", "['KEY_NOSUCH'] ['A'] [1] ['KEY_A','KEY_A']"),
    (in_device, f"hotkey = {KEYS_9}", "at most 8"),
    (in_device, "mode = 'Mirror'", "mode"),
    *each(in_kmc, "release_timeout = 'VALUE'", "release_timeout", f"1m 0ms {BIG}s \u0663s"),
    (in_kmc, "foreground = 'b'", "no operating system"),
    # names that hostsim gives interfaces
    (host, "[[vm]]\nname = 'hsd1-2'", "taken by hostsim"),
    (host, "[[vm]]\nname = 'hs-wait'", "taken by hostsim"),
    (host, "[[endpoint]]\nname = 'hsd3'", "taken by hostsim"),
    (in_vm, "[vm.os]\n[[device]]\nmatch = { interface = 'hsd3' }", "that an OS has already"),
    (in_vm, "[vm.os]\n[[device]]\nmatch = { sound = 'hw:0,0' }", "names no sound card"),
    (in_vm, "[vm.os]\n[[device]]\nmatch = { sound = 0 }", "names no sound card"),
    (in_vm, "[vm.os]\n[[device]]\nmatch = { sound = '*', name = 'x' }", "and other keys"),
    (in_vm, "[vm.os]\n[[device]]\nmatch = { sound = '*' }\nmode = 'direct'", "mode"),
    (in_vm, "[switch]\nuplinks = ['hsd3']", "port of the switch already"),
    (in_vm, "[switch]\nuplinks = ['ééééééééé']", "names no interface"),
    # too many
    (host, "".join(f"[[vm]]\nname = 'v{n}'\n[vm.os]\n" for n in range(17)), "at most 16"),
    (host, "".join(f"[[vm]]\nname = 'v{n}'\n" for n in range(1024)), "at most 1023"),
    # no host file at all
    (host, "x = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
    (host, "['a\\nb']\nx = 1", "unknown table"),
    (host, '["a\\nb"]\nx = 1', "unknown table"),
    (host, f"[{'k' * 5000}]\nx = 1", "unknown table"),
    (host, 'x = "\\u001b[2J"', "unknown key 'x'"),
    (host, "[vm]\nname = 'a'", "not a list of tables"),
    (str, "", "[host] is missing"),
    (str, "host = 1", "[host] is missing"),
    (str, "\x00", "not TOML"),
    (str, "[host]\nname = 'h'\n[host]", "not TOML"),
]


def test_there_are_as_many_as_were_found_wrong() -> None:
    assert len(WRONG) >= 105


@pytest.mark.parametrize(("place", "text", "why"), WRONG)
def test_refused(place: Callable[[str], str], text: str, why: str) -> None:
    assert why in refused(place(text))


def test_what_is_right_beside_them_is_read() -> None:
    spec = parse(
        in_vm(
            'memory = "1024T"\ncpus = 8192\npids = 4194304\nrate = "30gbit"\nrun = "x \\u00e9"\n'
            '[vm.os]\non_foreground = "a\\nb"\nuinput = true'
        )
        + '[[route]]\nmatch = { proto = "tcp", dport = [0, "1-2", 65535], tcp_flags = "syn,!ack" }'
        + f'\nthrough = ["a"]\n[[device]]\nmatch = {{ name = "*" }}\nhotkey = {KEYS_9[:8]}\n'
    )
    assert spec.vms[0].memory == 1 << 50
    assert spec.routes[0].match.dport == ((0, 0), (1, 2), (65535, 65535))
    assert spec.routes[0].match.tcp_flags == (2 | 16, 2)
    assert len(spec.devices[0].hotkey) == 8
    assert spec.vms[0].os == OsSpec(on_foreground="a\nb", uinput=True)


def test_the_most_of_each_is_what_the_forwarder_takes() -> None:
    header = (ROOT / "cext" / "input" / "forward.h").read_text()
    assert f"#define HS_FWD_CHORD {equipment.HOTKEY_MAX} " in header
    assert f"#define HS_FWD_OSES {hostfile.OSES_MAX} " in header


# -- files, as they lie on a disk ----------------------------------------------------------------


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with-a-mark"])
def test_a_file_as_an_editor_leaves_it(tmp_path: Path, ends: bytes, mark: bytes) -> None:
    path = tmp_path / "h.toml"
    path.write_bytes(mark + host('[[vm]]\nname = "a"\n').encode().replace(b"\n", ends))
    assert [vm.name for vm in hostfile.load(str(path)).vms] == ["a"]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"[host]\nname = '\xff'\n", "h.toml:2: is not UTF-8"),
        (b"\xff\xfe[\0", "h.toml:1: is not UTF-8"),
        (b"#" * (FILE_MAX + 1), "longer than 16 MiB"),
    ],
    ids=["latin-1", "utf-16", "long"],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, raw: bytes, why: str) -> None:
    path = tmp_path / "h.toml"
    path.write_bytes(raw)
    with pytest.raises(HostFileError) as caught:
        hostfile.load(str(path))
    assert why in str(caught.value)


def test_a_folder_and_a_name_that_can_be_none(tmp_path: Path) -> None:
    for name in (str(tmp_path), "a\0b", "x" * 5000):
        with pytest.raises(HostFileError):
            hostfile.load(name)


# -- rows ----------------------------------------------------------------------------------------


def nets(count: int) -> str:
    return str([f"198.18.{n}.0/24" for n in range(count)])


@pytest.mark.parametrize("match", ["", "src = %s", "src = %s, proto = 'tcp', dport = %s"])
def test_rows_are_counted_as_they_are_made(match: str) -> None:
    ports = str(list(range(1, 40)))
    values = (nets(9), ports)[: match.count("%")]
    text = match % values if match else "vlan = 3"
    made = [*match_rows(parse(in_match(text)).routes[0].match, 0)]
    assert count_rows([parse(in_match(text)).routes[0].match], records.ROWS_MAX) == len(made)


def test_counting_ends_at_the_limit() -> None:
    """A product of lists is not made whole to find that it is too long."""
    lists = f"src = {nets(250)}, dst = {nets(250)}, proto = 'udp', sport = {list(range(1, 3000))}"
    match: MatchSpec = parse(in_match(f"{lists}, dport = {list(range(1, 3000))}")).routes[0].match
    assert count_rows([match] * 3, records.ROWS_MAX) == records.ROWS_MAX + 1


# -- whatever else -------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "b", "tcp", "", "1M", "198.18.0.1/24", "KEY_A", "*", "80-90", "\0", "é" * 9, "x" * 400]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers() | st.floats() | st.booleans() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=4,
)
KNOWN = [
    "name",
    "address",
    "memory",
    "cpus",
    "pids",
    "nf",
    "run",
    "rate",
    "os",
    "rule",
    "default",
    "nat",
    "source",
    "match",
    "through",
    "bypass",
    "do",
    "to",
    "on_failure",
    "on_full",
    "ring",
    "proto",
    "sport",
    "dport",
    "src",
    "dst",
    "from",
    "tcp_flags",
    "dscp",
    "vlan",
    "ethertype",
    "sni",
    "http_host",
    "dns_name",
    "hotkey",
    "mode",
    "foreground",
    "fallback",
    "may_flip",
    "release_timeout",
    "held",
    "uplinks",
    "flow",
    "background",
    "on_foreground",
    "on_background",
    "restart",
    "uinput",
    "ports",
    "size",
    "count",
    "vendor",
    "interface",
]
TABLES = st.dictionaries(
    st.sampled_from(KNOWN),
    VALUES | st.dictionaries(st.sampled_from(KNOWN), VALUES, max_size=4),
    max_size=5,
)
HOSTS = st.fixed_dictionaries(
    {"host": st.just({"name": "h"})},
    optional={
        "vm": st.lists(TABLES.map(lambda table: {"name": "a", **table}), max_size=2),
        "endpoint": st.lists(TABLES.map(lambda table: {"name": "b", **table}), max_size=1),
        "route": st.lists(TABLES.map(lambda table: {"through": ["a"], **table}), max_size=2),
        "filter": st.lists(TABLES, max_size=1),
        "mirror": st.lists(TABLES, max_size=1),
        "device": st.lists(TABLES, max_size=1),
        "kmc": TABLES,
        "switch": TABLES,
    },
)


def one_line(data: object) -> bool:
    """Whether the file, given as text or as what tomllib makes of it, is read, or refused so."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            if not isinstance(data, str):
                patch.setattr(tomllib, "loads", lambda text: data)
            parse(data if isinstance(data, str) else "")
    except HostFileError as error:
        return "\n" not in str(error)
    return True


@pytest.mark.timeout(300)  # on a machine that has more to do
@settings(max_examples=1500, deadline=None)
@given(HOSTS)
def test_any_tables_are_read_or_refused_in_one_line(data: dict[str, Any]) -> None:
    assert one_line(data)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    assert one_line(text)
