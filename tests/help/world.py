# SPDX-License-Identifier: Apache-2.0
"""Clients, servers and forgers against the classifier itself, and against the pure model of what
the policy says: a state machine for hypothesis. Its ports are those of help.classifier.
"""

import itertools
from ipaddress import IPv4Network
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cext.switch import maps, records
from cext.switch.records import Tuple
from help.classifier import (
    ACK,
    CHAINED,
    CLIENT,
    FIN,
    FORGER,
    NUMBERS,
    OWNERS,
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
        if flags & RST:  # its end: what is begun next has said nothing yet
            self.told.discard(flow)

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
