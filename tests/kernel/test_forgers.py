# SPDX-License-Identifier: Apache-2.0
"""A connection cannot be talked out of its chain: clients, servers and forgers against the
classifier itself, and against the pure model of what the policy says.

HOSTSIM_WORLDS: how many worlds of 40 steps to play; 60 if it is not given.

The programs are loaded, and run on frames (BPF_PROG_TEST_RUN) at ports of a namespace that has
nothing else. A frame is followed from port to port as the verdicts say.
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
from cext._native import ffi, lib
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    run_state_machine_as_test,
)

from cext.switch import maps, records
from help.classifier import (
    ACK,
    CLIENT,
    FAR,
    FORGER,
    FW,
    IDS,
    REDIRECT,
    RST,
    SERVER,
    SYN,
    Switch,
    frame,
    tcp,
    udp,
)
from help.world import C_NET, S_NET, World
from hostsim.model import MatchSpec, RouteSpec

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


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
