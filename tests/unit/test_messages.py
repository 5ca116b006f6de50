# SPDX-License-Identifier: Apache-2.0
"""What is said of every VM's link is packed by hostsim as pyroute2 would compile it."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from netns import links, messages, netlink
from netns.links import Batch

MAC, FAR = "06:01:02:03:00:01", "02:01:02:03:00:ff"
NODAD = {"IFA_FLAGS": messages.IFA_F_NODAD}


def veth(batch: Batch) -> None:
    peer = [
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", FAR),
        ("IFLA_MTU", 9000),
        ("IFLA_NET_NS_FD", 21),
    ]
    batch.link(
        "add",
        ifname="v1",
        kind="veth",
        index=4097,
        address=MAC,
        mtu=9000,
        master=4096,
        info_peer={"index": 9001, "attrs": peer},
    )


def bridge(batch: Batch) -> None:
    what = {"br_mcast_snooping": 0, "br_group_fwd_mask": 0xFFF8}
    batch.link("add", ifname="br0", kind="bridge", index=4096, address=MAC, **what)


def sticky(batch: Batch) -> None:
    batch.fdb("add", ifindex=7, lladdr=MAC, state=0x40, flags=0x04 | 0x40)


def quiet(batch: Batch) -> None:
    family = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]]}
    batch.link("set", index=7, txqlen=1000, mtu=65521, IFLA_AF_SPEC=family)


SAID: dict[str, tuple[bytes, Callable[[Batch], None]]] = {
    "up": (messages.up(7), lambda batch: batch.link("set", index=7, state="up")),
    "removed": (messages.removed(7), lambda batch: batch.link("del", index=7)),
    "quiet": (messages.quiet(7, 1000, 65521), quiet),
    "bridge": (messages.bridge(4096, "br0", MAC, 0xFFF8), bridge),
    "veth": (messages.veth(4097, "v1", MAC, 4096, (9001, "eth0", FAR, 21), 9000), veth),
    "sticky": (messages.sticky(7, MAC), sticky),
    "address": (
        messages.address(7, ip_address("198.18.0.1"), 15),
        lambda batch: batch.addr("add", index=7, address="198.18.0.1", prefixlen=15),
    ),
    "address of IPv6": (
        messages.address(7, ip_address("fd00::1"), 64),
        lambda batch: batch.addr("add", index=7, address="fd00::1", prefixlen=64, **NODAD),
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_a_packed_message_is_as_pyroute2_compiles_it(what: str) -> None:
    packed, compiled = SAID[what]
    assert as_sent(packed) == as_sent(links._compile(compiled))


def test_but_for_the_kind_of_a_port() -> None:
    compiled = links._compile(lambda batch: batch.brport("set", index=7, group_fwd_mask=4))
    as_links = netlink.attribute(messages.IFLA_INFO_KIND, b"bridge_slave\0")
    as_ports = netlink.attribute(messages.IFLA_INFO_SLAVE_KIND, b"bridge_slave\0")
    assert compiled.count(as_links) == 1
    packed = messages.forwards(7, 4)
    assert as_sent(packed) == as_sent(compiled.replace(as_links, as_ports))


@pytest.mark.parametrize("how", messages.ROUTES)
@pytest.mark.parametrize("mtu", [None, 1400])
@pytest.mark.parametrize(
    ("to", "via"),
    [
        ("198.20.0.0/16", None),
        ("198.20.0.1/32", None),
        ("198.20.0.0/16", "198.18.0.9"),
        ("0.0.0.0/0", "198.18.0.9"),
        ("fd00::/64", None),
        ("fd00::/64", "fd01::1"),
        ("::/0", "fd01::1"),
    ],
)
def test_so_is_a_route(how: str, mtu: int | None, to: str, via: str | None) -> None:
    what: dict[str, Any] = {} if via is None else {"gateway": via}
    if via is None and "." in to:
        what["scope"] = messages.RT_SCOPE_LINK
    if mtu is not None:
        what["metrics"] = {"mtu": mtu}
    packed = messages.route(7, ip_network(to), None if via is None else ip_address(via), mtu, how)
    compiled = links._compile(lambda batch: batch.route(how, dst=to, oif=7, **what))
    assert as_sent(packed) == as_sent(compiled)


def as_sent(raw: bytes) -> list[bytes]:
    """The messages as `Rtnl.send` sends them, numbered by it."""
    return [netlink.acknowledged(message, 1) for _, message in netlink.messages(raw)]
