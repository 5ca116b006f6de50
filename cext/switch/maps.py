# SPDX-License-Identifier: Apache-2.0
"""The BPF data plane's maps as Python sees them: packing and unpacking layout.h's structures.

No policy here. Addresses are packed bytes in network order, VM numbers are the VMs' indices,
times are nanoseconds of CLOCK_MONOTONIC.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cext import check
from cext._native import ffi, lib
from cext.bpf.objects import Map
from cext.switch import records
from cext.switch.records import (
    COUNTERS,
    FROM,
    NO_ROUTE,
    Conn,
    Content,
    Ended,
    Flow,
    Lists,
    Row,
    Rule,
    Tuple,
    Verdict,
)

for _name, _value in vars(records).items():
    if isinstance(_value, int) and hasattr(lib, f"HS_{_name}"):
        assert _value == getattr(lib, f"HS_{_name}"), _name
assert len(records.COUNTERS) == lib.HS_REASONS

SWEPT = ("flows", "conns", "datagrams")
"""The tables that are swept, in the order of HS_SWEEP_*."""

TRIES = 1000
"""How often a change is tried that others were quicker with; each takes a packet of theirs."""


def unpack_tuple(raw: Any) -> Tuple:
    """A struct hs_tuple."""
    size = 4 if raw.family == 4 else 16 if raw.family == 6 else 6
    return Tuple(
        raw.family,
        raw.proto,
        bytes(ffi.buffer(raw.src))[:size],
        socket.ntohs(raw.sport),
        bytes(ffi.buffer(raw.dst))[:size],
        socket.ntohs(raw.dport),
        raw.vlan,
    )


def unpack_verdict(raw: int) -> Verdict:
    """A verdict out of its word: cext/switch/verdict.h."""
    return Verdict(raw >> 32, raw >> 24 & 0xFF, raw >> 16 & 0xFF, raw & 0xFFFF)


def pack_tuple(flow: Tuple) -> bytes:
    """A struct hs_tuple."""
    raw = ffi.new("struct hs_tuple *")
    ffi.memmove(raw.src, flow.src, len(flow.src))
    ffi.memmove(raw.dst, flow.dst, len(flow.dst))
    raw.sport, raw.dport = socket.htons(flow.sport), socket.htons(flow.dport)
    raw.proto, raw.family, raw.vlan = flow.proto, flow.family, flow.vlan
    return _bytes(raw)


def pack_conn(flow: Tuple) -> tuple[bytes, bool]:
    """The key of `conns`, the same for both directions, and whether it is the flow turned round:
    hs_tuple_both_ways in flow/tuple.h."""
    ends = [
        (struct.unpack("=4I", end.ljust(16, b"\0")), socket.htons(port))
        for end, port in ((flow.src, flow.sport), (flow.dst, flow.dport))
    ]
    turned = ends[0] > ends[1]
    return pack_tuple(flow.reversed() if turned else flow), turned


def pack_key(vm: int, flow: Tuple) -> bytes:
    """The key of `flows`."""
    return pack_u32(vm) + pack_tuple(flow)


def pack_row(row: Row) -> bytes:
    """One entry of `rows`."""
    raw = ffi.new("struct hs_row *")
    raw.route, raw.family = row.route, row.family
    raw.tcp_mask, raw.tcp_want = row.tcp_flags
    raw.dscp = 0 if row.dscp is None else row.dscp + 1
    raw.vlan, raw.ethertype = row.vlan, socket.htons(row.ethertype)
    raw.content = row.content is not None
    raw.proto = 0 if row.proto is None else row.proto + 1
    for slots, prefixes in ((raw.src, row.src), (raw.dst, row.dst)):
        for at, slot in enumerate(slots):
            if at < len(prefixes):
                address, mask = prefixes[at]
                ffi.memmove(slot.addr, address, len(address))
                ffi.memmove(slot.mask, mask, len(mask))
            elif prefixes:
                slot.addr[0] = 1  # outside its mask of 0: holds nothing
    for bit, slots, ranges in ((1, raw.sport, row.sport), (2, raw.dport, row.dport)):
        raw.ports |= bit if ranges else 0
        for at, slot in enumerate(slots):
            slot[0], slot[1] = ranges[at] if at < len(ranges) else (1, 0)
    raw.any_from = not row.origins
    for at, slot in enumerate(row.origins + (0xFFFF,) * (FROM - len(row.origins))):
        getattr(raw, "from")[at] = slot
    return _bytes(raw)


def pack_route(chain: tuple[int, ...], bypass: bool, skip: bool = False) -> bytes:
    """One entry of `routes`; chain: VM numbers, at most CHAIN_MAX."""
    raw = ffi.new("struct hs_route *")
    raw.length, raw.bypass, raw.on_failure = len(chain), bypass, skip
    for at, vm in enumerate(chain):
        raw.chain[at] = vm
    return _bytes(raw)


def pack_policy(epoch: int, policy: int, region: int, lists: Lists) -> bytes:
    """One entry of `policies`."""
    sizes = (len(lists.routes), len(lists.filters), len(lists.mirrors))
    return b"".join(map(pack_u32, (epoch, policy, region, *sizes, 0)))


def pack_vm(mac: str, flags: int, longest: int = 0) -> bytes:
    """One entry of `vms`. longest: bytes of a frame that its port takes; 0: not told."""
    return struct.pack("=6sHBx", bytes.fromhex(mac.replace(":", "")), longest, flags)


def pack_owner(address: bytes) -> bytes:
    """A key of `owners`: an IPv4 or IPv6 address."""
    return address.ljust(16, b"\0") + pack_u32(4 if len(address) == 4 else 6)


def both_own(vm: int, before: int) -> int:
    """What `owners` has of an address that moves to a VM from another, or that the VM has alone."""
    return vm | (before << 16 if before != vm else 0)


def pack_config(epoch: int, on: int) -> bytes:
    """The one entry of `config`; on: the ON_ bits."""
    return pack_u32(epoch) + pack_u32(on)


def unpack_event(data: bytes) -> tuple[int, int, int]:
    """Kind, from, to."""
    raw = ffi.from_buffer("struct hs_event *", data)
    return raw.kind, getattr(raw, "from"), raw.to


def unpack_content(data: bytes) -> Content:
    """An event of kind EVENT_CONTENT."""
    raw = ffi.from_buffer("struct hs_content *", data)
    return Content(
        getattr(raw.event, "from"),
        raw.event.to,
        unpack_tuple(raw.tuple),
        raw.sequence,
        bytes(ffi.buffer(raw.data, min(raw.length, lib.HS_CONTENT_MAX))),
        raw.start,
        raw.rest,
    )


def tell(program_fd: int, flow: Tuple, content: int) -> bool:
    """Note what the contents of the flow's connection told, and that it must be judged again.
    False if it is no longer known. Raises OSError (EAGAIN: others changed it all the time)."""
    raw = ffi.new("struct hs_tell *")
    key, _ = pack_conn(flow)
    ffi.memmove(ffi.addressof(raw, "key"), key, len(key))
    raw.content = content
    size = ffi.sizeof("struct hs_tell")
    for _ in range(TRIES):
        said = check(
            lib.hs_bpf_run(program_fd, raw, size, ffi.NULL, 0, ffi.NULL, ffi.NULL), "BPF tell"
        )
        if said != lib.HS_TELL_AGAIN:
            return bool(said == lib.HS_TELL_DONE)
    raise OSError(errno.EAGAIN, "BPF tell: the connection is changed all the time")


def forget(program_fd: int, vm: int, flow: Tuple) -> None:
    """Make what was decided for a flow at a port stale; its counts stay. Raises OSError."""
    _run_key(program_fd, vm, flow, "BPF forget")


def drop_flow(program_fd: int, vm: int, flow: Tuple) -> None:
    """Forget a flow at a port, and its counts. Raises OSError."""
    _run_key(program_fd, vm, flow, "BPF drop")


def _run_key(program_fd: int, vm: int, flow: Tuple, what: str) -> None:
    key = ffi.new("char[]", pack_key(vm, flow))
    size = ffi.sizeof("struct hs_key")
    check(lib.hs_bpf_run(program_fd, key, size, ffi.NULL, 0, ffi.NULL, ffi.NULL), what)


def judge(
    judged: Map, program_fd: int, vm: int, flow: Tuple, tcp_flags: int, dscp: int
) -> tuple[int | None, bool, Verdict]:
    """What the kernel decides for a first packet: route, whether it is a reply, verdict."""
    raw = ffi.new("struct hs_judge *")
    ffi.memmove(ffi.addressof(raw, "key"), pack_key(vm, flow), ffi.sizeof("struct hs_key"))
    raw.tcp_flags, raw.dscp = tcp_flags, dscp
    judged.set(pack_u32(0), _bytes(raw))
    frame = bytes(64)
    check(
        lib.hs_bpf_run(program_fd, ffi.NULL, 0, frame, len(frame), ffi.NULL, ffi.NULL),
        "BPF judge",
    )
    ffi.memmove(raw, judged.get(pack_u32(0)), ffi.sizeof("struct hs_judge"))
    route = None if raw.route == NO_ROUTE else raw.route
    return route, bool(raw.reply), unpack_verdict(raw.verdict)


def read_conn(conns: Map, flow: Tuple) -> Conn | None:
    """What is known of the flow's connection."""
    key, turned = pack_conn(flow)
    value = conns.get(key)
    if value is None:
        return None
    raw = ffi.from_buffer("struct hs_conn *", value)
    return Conn(
        flow,
        None if raw.route == NO_ROUTE else raw.route,
        bool(raw.reply) != turned,
        getattr(raw, "from"),
        raw.tcp_flags,
        raw.dscp,
        bool(raw.undecided),
        raw.content,
        bool(raw.turned) != turned,
        bool(raw.hearsay),
        raw.back,
    )


def read_flows(flows: Map) -> Iterator[Flow]:
    """Every flow at every port."""
    for key, value in pages(flows, "struct hs_key", "struct hs_flow"):
        if value.packets:
            yield _flow(key, value)


def read_flows_of(flows: Map, vms: Iterable[int]) -> Iterator[Flow]:
    """Every flow at the ports of these VMs. What the others cost is the reading of the map."""
    pick = picker(vms)
    for key, value in pages(flows, "struct hs_key", "struct hs_flow", pick):
        yield _flow(key, value)


def picker(vms: Iterable[int]) -> Callable[[Any, Any, int], int]:
    """Keeps what is of these VMs of a page of flows; how many entries it leaves: see
    switch/pick.h."""
    wanted = ffi.new("uint8_t[]", lib.HS_VM_MAX + 1)
    for vm in vms:
        wanted[vm] = 1

    def pick(keys: Any, flows: Any, count: int) -> int:
        kept: int = lib.hs_flows_pick(keys, flows, count, wanted)
        return kept

    return pick


def read_rules(flows: Map) -> Iterator[Rule]:
    """Every flow that a VM with a transfer component sends, with and without a rule."""
    for key, value in pages(flows, "struct hs_key", "struct hs_flow"):
        if _sent(value.rule):
            yield _rule(key, value)


def read_table(flows: Map) -> tuple[list[Flow], list[Rule]]:
    """Both, by one look at each entry."""
    ports: list[Flow] = []
    sent: list[Rule] = []
    for key, value in pages(flows, "struct hs_key", "struct hs_flow"):
        if value.packets:
            ports.append(_flow(key, value))
        if _sent(value.rule):
            sent.append(_rule(key, value))
    return ports, sent


def _flow(key: Any, value: Any) -> Flow:
    return Flow(
        key.vm,
        unpack_tuple(key.tuple),
        unpack_verdict(value.verdict),
        value.packets,
        value.bytes,
        value.last,
        None if value.route == NO_ROUTE else value.route,
        bool(value.reply),
        value.position,
        value.mirror,
        value.asked,
        tuple(value.dropped),
    )


def _sent(rule: Any) -> int:
    return int(rule.switch_packets + rule.veth_packets)


def _rule(key: Any, value: Any) -> Rule:
    rule = value.rule
    return Rule(
        key.vm,
        unpack_tuple(key.tuple),
        unpack_verdict(rule.verdict),
        rule.switch_packets,
        rule.veth_packets,
        rule.veth_bytes,
        value.last,
        rule.got_packets,
    )


def read_ended(ended: Map) -> Iterator[Ended]:
    """The sums of flows that were swept, by VM."""
    for key, value in pages(ended, "uint32_t", "struct hs_ended"):
        yield Ended(
            key,
            value.flows,
            value.switch_packets,
            value.veth_packets,
            value.got_packets,
            value.packets,
            tuple(value.dropped),
        )


def read_share(shares: Map, vm: int) -> tuple[int, int]:
    """The flows and the connections that a VM is charged for; 0: all of them."""
    raw = ffi.from_buffer("struct hs_entries *", shares.get(pack_u32(vm)) or b"")
    return raw.flows, raw.conns


def read_asked(shares: Map, vm: int) -> int:
    """The bytes of contents that have gone up on a VM's account."""
    raw = ffi.from_buffer("struct hs_entries *", shares.get(pack_u32(vm)) or b"")
    return int(raw.contents)


def note_taken(taken: Map, vm: int, events: int) -> None:
    """Of a VM's contents, so many events are taken from the ring buffer. Raises OSError."""
    size = ffi.sizeof("struct hs_content")
    taken.set(pack_u32(vm), (events * size).to_bytes(8, sys.byteorder))


def read_counters(counters: Map) -> dict[str, int]:
    """The counters, summed over the CPUs."""
    found: dict[str, int] = {}
    for at, name in enumerate(COUNTERS):
        values = counters.get_percpu(pack_u32(at)) or []
        found[name] = sum(int.from_bytes(value, sys.byteorder) for value in values)
    return found


def sweep(
    programs: Callable[[str], int],
    tables: Callable[[str], Map],
    now: int,
    flow_idle: int,
    gone: int = 0,
) -> int:
    """Remove flows that are idle for longer than so many ns, connections by their lifetimes
    (HS_LIFE_* in layout.h), and every rule to and from the VM `gone`. programs, tables: of the
    classifier, by name. One sweep at a time.

    Returns how many routing rules went. Takes long, without the interpreter's lock, and in turns
    that keep no processor (cext/switch/sweep.h); raises OSError.
    """
    fds = ffi.new("struct hs_swept_fds *")
    fds.program = programs("sweep")
    fds.swept = tables("swept").fd
    fds.tables = [tables(one).fd for one in SWEPT]
    work = ffi.new("struct hs_sweep *")
    work.now, work.flow_idle, work.gone = now, flow_idle, gone
    check(lib.hs_sweep_all(fds, work), "BPF sweep")
    rules: int = work.rules
    return rules


def pages(
    source: Map,
    key_type: str,
    value_type: str,
    pick: Callable[[Any, Any, int], int] = lambda keys, values, count: count,
) -> Iterator[tuple[Any, Any]]:
    """Every entry of a hash map, as C values that are good until the next one is asked for. pick:
    moves what is wanted of a page to its front, and says how much that is."""
    size = 4096
    keys = ffi.new(f"{key_type}[]", size)
    values = ffi.new(f"{value_type}[]", size)
    cursor = ffi.new("uint64_t *")
    count = ffi.new("uint32_t *")
    more, first = 1, 1
    while more:
        count[0] = size
        more = check(lib.hs_bpf_page(source.fd, cursor, first, keys, values, count), "BPF map page")
        first = 0
        for at in range(pick(keys, values, count[0])):
            yield keys[at], values[at]


def _bytes(raw: Any) -> bytes:
    return bytes(ffi.buffer(raw))


def pack_u32(value: int) -> bytes:
    """A key or value that is a number."""
    return int(value).to_bytes(4, sys.byteorder)
