# SPDX-License-Identifier: Apache-2.0
"""One packet's way through a host, of all that was seen of a flow. Pure.

A packet is known again by its id (`cext.sight.write.packet_id`): a router may have had it, a
translator not.
"""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

from hostsim.capture.story import Seen, Wanted
from hostsim.keys import key_text, parse_key

PACKETS = 256
"""Packets of which the sightings are kept: the first ones."""


def wanted(flow: str) -> Wanted:
    """Lets a flow's packets by. flow: its key, or a pattern of keys (* ?). Raises UsageError if it
    is neither."""
    fits: Callable[[str], bool]
    if "*" in flow or "?" in flow:
        pattern = flow.replace("[", "[[]")  # of an IPv6 address
        fits = lambda key: fnmatch.fnmatchcase(key, pattern)  # noqa: E731
    else:
        fits = key_text(parse_key(flow)).__eq__
    return lambda sight: sight.flow is not None and fits(key_text(sight.flow))


class Ways:
    """The ways of the first packets that were seen since a moment (ns since 1970)."""

    def __init__(self, since: int) -> None:
        self._since = since
        self._ways: dict[tuple[int, str], list[Seen]] = {}

    def add(self, found: Iterable[Seen]) -> None:
        """Keep them, in any order."""
        for seen in found:
            ident = (seen.ident, seen.story.key)
            if ident in self._ways or len(self._ways) < PACKETS:
                self._ways.setdefault(ident, []).append(seen)

    def first(self) -> list[Seen]:
        """The way of the packet that set out first, in the order of time; empty: there is none."""
        ways = [sorted(way, key=lambda seen: seen.time) for way in self._ways.values()]
        whole = [way for way in ways if way[0].time >= self._since]
        return _once(min(whole, key=lambda way: way[0].time)) if whole else []


def _once(way: list[Seen]) -> list[Seen]:
    """Without what was at a place for the second time: another packet with the same bytes."""
    places = set()
    for at, seen in enumerate(way):
        place = (seen.story.interface, seen.story.vm)
        if place in places:
            return way[:at]
        places.add(place)
    return way


def rows(way: list[Seen]) -> list[dict[str, Any]]:
    """What `hostsim trace --json` prints: a hop each; `us`: since the first one."""
    return [
        {
            "us": (seen.time - way[0].time) / 1000,
            "vm": seen.story.vm,
            "path": seen.story.path,
            "to": seen.story.to,
            "route": seen.story.route,
            "epoch": seen.story.epoch,
            "reply": seen.story.reply,
            "drop": seen.story.drop,
        }
        for seen in way
    ]


def lines(way: list[Seen]) -> list[str]:
    """The same for a person."""
    head = f"{way[0].story.key}  {way[0].length} bytes  id {way[0].ident:016x}"
    found = [head]
    for seen in way:
        told = seen.story
        where = {
            "eth0": f"{told.vm} eth0",
            "switch": f"switch, from {told.vm}",
            "drop": f"dropped at {told.vm}: {told.drop}",
        }.get(told.path, f"{told.vm} → {told.to} {told.path}")
        route = "" if told.route is None else f"route {told.route}{' (reply)' * told.reply}"
        epoch = f"epoch {told.epoch}" if told.epoch else ""
        us = (seen.time - way[0].time) / 1000
        found.append(f"{us:>12,.1f} us  {where:<28} {route:<16} {epoch}".rstrip())
    return found
