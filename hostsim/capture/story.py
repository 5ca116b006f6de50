# SPDX-License-Identifier: Apache-2.0
"""What a capture says of a packet: its interface, path, route, epoch and end. Pure.

fw eth0        it left fw for the switch
fw→ids veth    it left fw straight to ids
switch         it came in by the port of fw, and the switch let it go on
fw→ids ring    the packet function fw put it into its ring to ids
drop           the kernel dropped it, or a packet function had no room for it
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cext.sight.records import ARRIVES, LOST, RING, STRAIGHT, UNSENT, UNSENT_REASONS, Sight
from cext.switch.records import NO_ROUTE
from hostsim.keys import key_text

Wanted = Callable[[Sight], bool]
"""Whether a packet is to be told."""
DROPPED = "what the kernel dropped, and what packet functions had no room for"
ETHER = 14
"""Bytes of a frame's header: fewer of a packet tell nothing."""


@dataclass(frozen=True)
class Story:
    """interface: its name. drop: the reason's name, or empty."""

    interface: str
    description: str
    vm: str
    path: str
    to: str
    key: str
    route: int | None
    epoch: int
    reply: bool
    drop: str

    def text(self) -> str:
        """One line for a person."""
        words = [self.vm, *(["→", self.to] if self.to else []), self.path]
        if self.key:
            words.append(self.key)
        if self.route is not None:
            words.append(f"route {self.route}{' (reply)' if self.reply else ''}")
        if self.epoch:
            words.append(f"epoch {self.epoch}")
        if self.drop:
            words.append(f"dropped: {self.drop}")
        return " ".join(words)

    def fields(self) -> str:
        """For a program: NAME=VALUE, separated by blanks; none of them has one."""
        route = "" if self.route is None else str(self.route)
        return (
            f"hostsim vm={self.vm} path={self.path} to={self.to} key={self.key} "
            f"route={route} epoch={self.epoch} reply={int(self.reply)} drop={self.drop}"
        )


class Seen(NamedTuple):
    """One packet at one place, and what there is to say of it."""

    story: Story
    time: int  # ns since 1970
    ident: int  # packet_id
    frame: bytes  # as much of it as was captured
    length: int  # of the whole frame


def tell(sight: Sight, names: Mapping[int, str], reasons: Mapping[int, str]) -> Story:
    """names: of VMs, endpoints and uplinks by number. reasons: the kernel's, for drops."""
    vm = names.get(sight.vm, str(sight.vm))
    key = key_text(sight.flow) if sight.flow is not None else ""
    route = None if sight.route == NO_ROUTE else sight.route
    epoch, to, drop = sight.verdict >> 32, "", ""
    if sight.place == STRAIGHT:
        to = names.get(sight.to, str(sight.to))
        path, interface, what = "veth", f"{vm}→{to} veth", f"straight from {vm} to {to}"
    elif sight.place == RING:
        to = names.get(sight.to, str(sight.to))
        path, interface, what = "ring", f"{vm}→{to} ring", f"by ring from {vm} to {to}"
    elif sight.place == ARRIVES:
        path, interface, what = "switch", "switch", "what came in by the switch's ports"
    elif sight.place == LOST:
        path, interface, what = "drop", "drop", DROPPED
        drop = reasons.get(sight.reason, f"reason-{sight.reason:#x}")
    elif sight.place == UNSENT:
        path, interface, what = "drop", "drop", DROPPED
        drop = UNSENT_REASONS[sight.reason]
    else:
        path, interface, what = "eth0", f"{vm} eth0", f"from {vm} to the switch"
    return Story(interface, what, vm, path, to, key, route, epoch, sight.reply, drop)
