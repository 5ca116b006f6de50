# SPDX-License-Identifier: Apache-2.0
"""Impaired links: [[link]] of a host file, and the same values as words of a command. Pure.

    link(table, names) -> LinkSpec                 one [[link]]
    from_words(of, direction, words) -> LinkSpec   `hostsim link fw loss=1% delay=5ms`

Each raises HostFileError or UsageError with what is allowed.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from hostsim.errors import UsageError
from hostsim.hostfile import matches
from hostsim.hostfile.table import Table
from hostsim.model import Direction, LinkSpec
from hostsim.names import LINK_WORDS as WORDS

DELAY_MAX = 9.0
"""Seconds: a queue fq drops what is to leave later than in ten (tc-fq(8), horizon)."""
SEED_MAX = (1 << 63) - 1

_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%", re.ASCII)
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(us|ms|s)", re.ASCII)
UNITS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
SHARES = ("loss", "duplicate", "reorder", "corrupt")
TIMES = ("delay", "jitter")


def link(table: Table, names: Collection[str]) -> LinkSpec:
    """One [[link]]; names: of all VMs and endpoints."""
    of = table.take("of", str, "the name of a VM or endpoint")
    if of not in names:
        table.fail(
            f"of = {of!r} is no VM or endpoint of this host", f"there are: {', '.join(names)}"
        )
    direction = table.choice("direction", Direction, "both")
    shares = {key: _share(table, key) for key in SHARES}
    times = {key: _time(table, key) for key in TIMES}
    allowed = f"a number, 0 to {SEED_MAX}"
    seed = table.take("seed", int, allowed)
    if seed is not None and not 0 <= seed <= SEED_MAX:
        table.fail(f"seed = {seed} is not allowed", f"seed is {allowed}")
    down = table.take("down", bool, "true or false")
    rate = matches.rate(table)
    found = LinkSpec(
        of,
        direction,
        times["delay"],
        times["jitter"],
        shares["loss"],
        shares["duplicate"],
        shares["reorder"],
        shares["corrupt"],
        rate,
        seed or 0,
        bool(down),
    )
    if found.jitter > found.delay:
        table.fail("jitter is more than delay", "a packet takes delay - jitter to delay + jitter")
    if found.reorder and not found.delay:
        table.fail("reorder without delay", "what is reordered goes without it, before the others")
    table.done()
    return found


def _share(table: Table, key: str) -> float:
    allowed = f'a share of packets, "1%" or 0.01, at most {"100%"}'
    value = table.take(key, (int, float, str), allowed)
    if value is None:
        return 0.0
    if isinstance(value, str):
        match = _SHARE.fullmatch(value)
        share = float(match.group(1)) / 100 if match else -1.0
    else:
        share = float(value)
    if not 0 <= share <= 1:
        table.fail(f"{key} = {value!r} is not allowed", f"{key} is {allowed}")
    return share


def _time(table: Table, key: str) -> int:
    allowed = f'a time, "5ms" or "200us", at most {DELAY_MAX:g}s'
    value = table.take(key, str, allowed)
    if value is None:
        return 0
    match = _TIME.fullmatch(value)
    time = round(float(match.group(1)) * UNITS[match.group(2)]) if match else -1
    if not 0 <= time <= DELAY_MAX * UNITS["s"]:
        table.fail(f"{key} = {value!r} is not allowed", f"{key} is {allowed}")
    return time


class _Words(Table):
    """Words of a command, checked as the keys of a table are."""

    def fail(self, why: str, hint: str = "") -> NoReturn:
        raise UsageError("link", why, hint)


def from_words(of: str, direction: str, words: Sequence[str]) -> LinkSpec:
    """What `KEY=VALUE ...` says of a link; what is not said is as in an unimpaired one. Raises
    UsageError."""
    data: dict[str, Any] = {"of": of, "direction": direction}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in WORDS:
            raise UsageError("link", f"{word!r} is not known", f"KEY=VALUE, of: {', '.join(WORDS)}")
        if key in data:
            raise UsageError("link", f"{key} stands twice", "each key once")
        if key == "down" and not equals:
            value = "true"
        elif not value:
            raise UsageError("link", f"{key} has no value", f"{key}=VALUE")
        data[key] = _read(key, value)
    return link(_Words("link", 0, "link", data), (of,))


def _read(key: str, value: str) -> object:
    """As TOML has it: numbers where a number can stand, else text."""
    if key == "down":
        return {"true": True, "false": False}.get(value, value)
    if key == "seed" and re.fullmatch(r"[0-9]{1,19}", value, re.ASCII):
        return int(value)
    if key in SHARES and re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", value, re.ASCII):
        return float(value)
    return value
