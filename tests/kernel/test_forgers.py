# SPDX-License-Identifier: Apache-2.0
"""A connection cannot be talked out of its chain: clients, servers and forgers against the
classifier itself, and against the pure model of what the policy says.

HOSTSIM_WORLDS: how many worlds of 40 steps to play; 60 if it is not given.

The programs are loaded, and run on frames (BPF_PROG_TEST_RUN) at ports of a namespace that has
nothing else. A frame is followed from port to port as the verdicts say.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

import pytest
from cext._native import ffi, lib
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cext.switch import maps, records
from cext.switch.records import Tuple
from help.classifier import (
    ACK,
    CHAINED,
    CLIENT,
    FAR,
    FIN,
    FORGER,
    FW,
    IDS,
    NUMBERS,
    OWNERS,
    REDIRECT,
    RST,
    SERVER,
    SYN,
    C,
    Switch,
    frame,
    tcp,
    udp,
)
from hostsim.model import MatchSpec, RouteSpec
from hostsim.routing import policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

C_NET, S_NET = IPv4Network("198.18.0.10/32"), IPv4Network("198.18.0.20/32")

NAME, NUMBER = ("sni", "www.example.com"), 7
MATCHES = (
    MatchSpec(proto=6, dport=((80, 80),)),
    MatchSpec(dst=(S_NET,)),
    MatchSpec(src=(C_NET,)),
    MatchSpec(src=(S_NET,)),
    MatchSpec(proto=17, dport=((80, 80),)),
    MatchSpec(sport=((80, 80),), proto=6),
    MatchSpec(origins=("client",)),
    MatchSpec(origins=("server",), proto=6),
    MatchSpec(origins=("forger",)),
    MatchSpec(proto=6, tcp_flags=(SYN | ACK, SYN)),
    MatchSpec(proto=6, dport=((80, 80),), sni=(NAME[1],)),
    MatchSpec(proto=6, src=(C_NET,), sni=(NAME[1],)),
)
FULL = records.CONNS_MAX * records.SHARE // (records.SHARE + 1)
CHAINS = (("fw",), ("ids",), ("fw", "ids"), ("ids", "fw"))
PORTS = st.integers(6000, 6001)
"""So few that forgers hit what clients use."""
FORGED = (0, SYN, ACK, SYN | ACK, RST, FIN | ACK)


@pytest.fixture
def switch(ports: None) -> Iterator[Switch]:
    with contextlib.closing(Switch()) as made:
        yield made


TAGGED = 0x8F
"""The hash of a tuple that it takes a second to find."""
TO_SERVER = [RouteSpec(0, MatchSpec(dst=(S_NET,)), ("fw",))]


@pytest.mark.parametrize("who", [CLIENT, FORGER])
def test_a_forged_answer_takes_nothing_out_of_its_chain(switch: Switch, who: int) -> None:
    """A SYN+ACK seems to say that its receiver began the connection."""
    switch.apply(TO_SERVER)
    assert switch.path(who, tcp(5555), SYN | ACK) == [FW]
    assert switch.path(CLIENT, tcp(5555), SYN) == [FW]
    assert switch.path(SERVER, tcp(5555).reversed(), SYN | ACK) == [FW]


@pytest.mark.parametrize("who", [SERVER, FORGER])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK, ACK, RST, 0])
def test_a_packet_with_the_servers_address_takes_nothing_out(
    switch: Switch, who: int, flags: int
) -> None:
    switch.apply(TO_SERVER)
    for flow in (tcp(6001), udp(6001)):
        switch.path(who, flow.reversed(), flags)
        assert switch.path(CLIENT, flow, SYN) == [FW]
        switch.path(who, flow.reversed(), flags)
        assert switch.path(CLIENT, flow, ACK) == [FW]
        assert switch.path(SERVER, flow.reversed(), ACK) == [FW]


def test_what_is_matched_by_its_port_cannot_be_forged_from_another(switch: Switch) -> None:
    """The forger's packet comes first, with the client's address."""
    switch.apply([RouteSpec(0, MatchSpec(origins=("client",)), ("ids",))])
    for flow in (tcp(6001), udp(6001)):
        switch.path(FORGER, flow, ACK)
        assert switch.path(CLIENT, flow, SYN) == [IDS]
        assert switch.path(SERVER, flow.reversed(), SYN | ACK) == [IDS]


def test_one_who_forges_an_address_has_his_own_port_all_the_same(switch: Switch) -> None:
    switch.apply([RouteSpec(0, MatchSpec(origins=("forger",)), ("ids",))])
    assert switch.path(FORGER, udp(6001)) == [IDS]


def test_a_forger_does_not_choose_between_two_chains(switch: Switch) -> None:
    """What the server begins has a chain of its own, which stands first."""
    switch.apply([
        RouteSpec(0, MatchSpec(src=(S_NET,)), ("ids",)),
        RouteSpec(1, MatchSpec(src=(C_NET,)), ("fw",)),
    ])  # fmt: skip
    switch.path(FORGER, tcp(6001).reversed(), SYN)
    assert switch.path(CLIENT, tcp(6001), SYN) == [FW]
    switch.path(FORGER, tcp(6001).reversed(), SYN)
    assert switch.path(SERVER, tcp(6001).reversed(), SYN | ACK) == [FW]
    assert switch.path(CLIENT, tcp(6001), ACK) == [FW]


def test_a_forgotten_connection_goes_by_the_chain_it_may_want(switch: Switch) -> None:
    for match in (MatchSpec(dst=(S_NET,)), MatchSpec(origins=("client",))):
        switch.apply([RouteSpec(0, match, ("fw", "ids"))])
        for flow in (tcp(7001), udp(7001)):
            assert switch.path(CLIENT, flow, SYN) == [FW, IDS]
            switch.forget()
            assert switch.path(SERVER, flow.reversed(), ACK) == [IDS, FW]
            switch.forget()
            assert switch.path(CLIENT, flow, ACK) == [FW, IDS]


def test_a_rule_of_an_old_epoch_is_good_for_nothing_new(switch: Switch) -> None:
    """The VM sends by its direct link what it likes; its rule is two policies old, or one."""
    data = frame(tcp(6001), ACK)
    flows = switch.object.map("flows")
    for later in (0, 1, 2, 300):
        switch.apply(TO_SERVER)
        key = maps.pack_key(FW, tcp(6001))
        value = ffi.new("struct hs_flow *")
        value.rule.verdict = lib.hs_verdict(switch.epoch, 0, records.STEER, IDS)
        flows.set(key, bytes(ffi.buffer(value)))
        for _ in range(later):
            switch.apply(TO_SERVER)
        took = switch.run("transfer_in", FAR, data)
        assert (took == REDIRECT) == (later == 0), later
        stale = maps.read_counters(switch.object.map("counters"))["stale"]
        assert stale == (0, 1, 2, 300).index(later)


@pytest.mark.stock
def test_what_a_vm_makes_up_does_not_choose_its_epoch(switch: Switch) -> None:
    """Its tuple's own hash looks like the tag of the epoch before: 24 bits of nought, and that."""
    flow = udp(460, 8705)
    old = [RouteSpec(0, MatchSpec(dst=(S_NET,)), ("fw", "ids"))]
    for epoch in range(TAGGED + 1):
        switch.apply(old if epoch < TAGGED else [RouteSpec(0, MatchSpec(dst=(S_NET,)), ("fw",))])
    assert switch.epoch == TAGGED + 1
    assert switch.path(CLIENT, flow) == [FW]
    switch.run("classify", records.IFINDEX + FW, frame(flow, 0))
    assert maps.read_counters(switch.object.map("counters"))["old-epoch"] == 0


class World(RuleBasedStateMachine):
    """Connections of the client with the server; what the policy says of each is known. The chains'
    VMs have a direct link to each other.

    told: those whose contents told NAME.
    flooded: whether the forger has more connections than its share.
    honest: whether the server has never sent a packet that seems to begin something: if it has, the
    policy may have another chain for that, but some chain.
    unknown: the highest source port that somebody has used.
    refused: frames on direct links that have not been taken.
    """

    switch: Switch
    given: dict[Tuple, tuple[int, ...]]
    honest: dict[Tuple, bool]
    told: set[Tuple]
    flooded: bool
    unknown: int
    refused: int
    routes: list[RouteSpec]

    @initialize()
    def up(self) -> None:
        self.switch = Switch(direct=True)
        self.given, self.honest, self.routes = {}, {}, []
        self.told, self.flooded, self.unknown, self.refused = set(), False, 10000, 0

    @rule(
        picks=st.lists(
            st.tuples(st.sampled_from(MATCHES), st.sampled_from(CHAINS)), min_size=1, max_size=4
        )
    )
    def apply(self, picks: Any) -> None:
        """Another policy: what is asked of old connections is that they pass some chain."""
        self.routes = [RouteSpec(at, match, chain) for at, (match, chain) in enumerate(picks)]
        self.rows = policy.compile_lists(self.routes, (), (), NUMBERS).routes
        self.switch.apply(self.routes)
        self.given = {}
        base = self.switch.epoch % records.REGIONS * records.ROWS_MAX
        for at, row in enumerate(self.rows):
            key = maps.pack_u32(NUMBER) + maps.pack_u32(base + at)
            if row.content:
                self.switch.object.map("names").set(key, b"\1")
            else:
                self.switch.object.map("names").delete(key)
        self.send_beside()

    @precondition(lambda self: self.routes)
    @rule(make=st.sampled_from((tcp, udp)), port=PORTS)
    def begin(self, make: Any, port: int) -> None:
        """The client begins a connection, or sends a datagram."""
        flow = make(port)
        flags = SYN if flow.proto == 6 else 0
        wanted = self.wanted(flow, flags)
        self.follow(CLIENT, flow, flags, wanted)
        if self.honest.setdefault(flow, True) or not wanted:
            self.given[flow] = wanted

    @precondition(lambda self: self.given)
    @rule(data=st.data(), answer=st.booleans())
    def go_on(self, data: st.DataObject, answer: bool) -> None:
        """Client or server send another packet of one."""
        flow = data.draw(st.sampled_from(sorted(self.given)))
        flags = ACK if flow.proto == 6 else 0
        wanted = self.given[flow]
        if answer:
            self.follow(SERVER, flow.reversed(), flags, wanted[::-1])
        else:
            self.follow(CLIENT, flow, flags, wanted)

    @precondition(lambda self: self.routes)
    @rule(make=st.sampled_from((tcp, udp)), port=PORTS, answers=st.booleans())
    def stream(self, make: Any, port: int, answers: bool) -> None:
        """So much of a connection that its hops may get routing rules."""
        flow = make(port)
        self.begin(make, port)
        wanted = self.given.get(flow, ())
        for _ in range(records.RULE_AFTER + 1 if wanted else 0):
            flags = ACK if flow.proto == 6 else 0
            self.follow(CLIENT, flow, flags, wanted)
            if answers:
                self.follow(SERVER, flow.reversed(), flags, wanted[::-1])

    @precondition(lambda self: self.routes)
    @rule()
    def send_beside(self) -> None:
        """The chains' VMs put on their direct links what they once had a rule for. Their transfer
        component does not, if the rule is of an older epoch."""
        pairs = {pair for one in self.routes for pair in itertools.pairwise(one.through)}
        names = {number: name for name, number in NUMBERS.items()}
        for (vm, flow), held in self.switch.rules().items():
            data = frame(flow, ACK if flow.proto == 6 else 0)
            old = held.epoch != self.switch.epoch
            assert not (old and self.switch.sent_beside(vm, data)), (flow, held)
            taken = self.switch.taken(vm, held.to, data)
            if old:
                self.switch.run("classify", records.IFINDEX + vm, data)
            if not taken:
                self.refused += 1
                continue
            key = flow if flow.src == C else flow.reversed()
            if self.honest.get(key):
                wanted = self.wanted(key, SYN if key.proto == 6 else 0)[:: 1 if key is flow else -1]
                assert (vm, held.to) in itertools.pairwise(wanted), (flow, held)
            pair = (names[vm], names[held.to])
            assert pair in pairs or pair[::-1] in pairs, (flow, held)

    def wanted(self, flow: Tuple, flags: int, who: int = CLIENT) -> tuple[int, ...]:
        """The chain that the policy has for what the client, or somebody else, begins so."""
        names = (NAME,) if flow in self.told else ()
        first = policy.First(flow, flags, 0, who, names)
        judged = policy.judge(self.rows, first, OWNERS)
        chain = self.routes[judged.route].through if judged.route is not None else ()
        numbers = tuple(NUMBERS[name] for name in chain)
        return numbers[::-1] if judged.reply else numbers

    @precondition(lambda self: any(self.honest.get(flow) for flow in self.given))
    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        """The contents of a connection tell the daemon a name, which tells the switch."""
        flow = data.draw(st.sampled_from(sorted(f for f in self.given if self.honest.get(f))))
        if flow.proto != 6:
            return
        assert maps.tell(self.switch.object.program("tell"), flow, NUMBER)
        for port in NUMBERS.values():
            for way in (flow, flow.reversed()):
                maps.forget(self.switch.object.program("forget"), port, way)
        self.told.add(flow)
        self.given[flow] = self.wanted(flow, SYN)
        self.send_beside()

    @rule()
    def flood(self) -> None:
        """The forger begins to flood, or its flood is over."""
        self.flooded = not self.flooded
        self.switch.flood(FORGER, FULL if self.flooded else -FULL)

    def follow(self, vm: int, flow: Tuple, flags: int, wanted: tuple[int, ...]) -> None:
        found = tuple(self.switch.path(vm, flow, flags))
        key = flow if flow.src == C else flow.reversed()
        if wanted and self.honest.get(key, True):
            assert found == wanted, (flow, flags)
        elif wanted:
            assert found, (flow, flags)

    @precondition(lambda self: self.routes)
    @rule(
        make=st.sampled_from((tcp, udp)),
        port=PORTS,
        turned=st.booleans(),
        flags=st.sampled_from(FORGED),
    )
    def forge(self, make: Any, port: int, turned: bool, flags: int) -> None:
        """Anybody sends anything with anybody's address."""
        flow = make(port)
        self.switch.path(FORGER, flow.reversed() if turned else flow, flags)

    @precondition(lambda self: self.routes)
    @rule(make=st.sampled_from((tcp, udp)), who=st.sampled_from((FORGER, *CHAINED)))
    def forge_first(self, make: Any, who: int) -> None:
        """Connections that nobody knows; of each, somebody forges a packet just before the client
        begins it, and before it goes on."""
        for turned, flags in itertools.product((False, True), FORGED if make is tcp else (0,)):
            self.unknown += 1
            flow = make(self.unknown)
            forged = flow.reversed() if turned else flow
            wanted = self.wanted(flow, SYN if make is tcp else 0)
            if who == FORGER and not self.flooded:
                self.follow(who, forged, flags, self.wanted(forged, flags, who))
            for begun in (SYN, ACK) if make is tcp else (0, 0):
                self.switch.path(who, forged, flags)
                self.follow(CLIENT, flow, begun, wanted)
                self.follow(SERVER, flow.reversed(), begun | ACK if begun else 0, wanted[::-1])

    @precondition(lambda self: self.routes)
    @rule(
        make=st.sampled_from((tcp, udp)),
        port=PORTS,
        flags=st.sampled_from((0, SYN, ACK, SYN | ACK, RST)),
    )
    def serve_badly(self, make: Any, port: int, flags: int) -> None:
        """The server sends what nobody asked for, with its own address."""
        flow = make(port)
        self.switch.path(SERVER, flow.reversed(), flags)
        self.honest[flow] = False

    @precondition(lambda self: self.routes)
    @rule()
    def forget(self) -> None:
        """Silence; what goes on after it passes some chain."""
        self.switch.forget()
        self.told.clear()
        for flow in self.given:
            self.honest[flow] = False

    @invariant()
    def nothing_is_dropped_by_name(self) -> None:
        counted = maps.read_counters(self.switch.object.map("counters"))
        assert not counted["malformed"] + counted["table-full"]
        assert counted["stale"] <= self.refused

    def teardown(self) -> None:
        self.switch.close()


def test_no_order_of_packets_takes_a_connection_out_of_its_chain(ports: None) -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=int(os.environ.get("HOSTSIM_WORLDS", "60")),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
