# SPDX-License-Identifier: Apache-2.0
"""The live view of a host: what is shown, in how many lines and columns. Pure: rich draws it.

    state = State()
    state = state.key("b")                           a key is pressed
    show(state, old, new, size)                      a picture of so many columns and lines

Narrow terminals lose columns, not lines: 40 columns have the flow, its path and its packets/s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from hostsim.views import rates
from hostsim.views.rates import Hop

Json = dict[str, Any]

STYLES = {"veth": "green", "ring": "cyan", "switch": "yellow"}
KEYS = "p b k n v sort  r reverse  / filter  space hold  q quit"
UP, DOWN = "▲", "▼"
"""Beside the title of the column that rows are in the order of: from the least, from the most."""
SORTS: dict[str, tuple[str, Callable[[Hop], Any]]] = {
    "p": ("packets/s", lambda hop: hop.per_s),
    "b": ("bytes/s", lambda hop: hop.bytes_per_s),
    "n": ("packets", lambda hop: hop.packets),
    "k": ("flow", lambda hop: hop.key),
    "v": ("VM", lambda hop: (hop.vm, hop.to)),
}
"""By key: the name of an order, and what it goes by."""
DOWNWARDS = ("p", "b", "n")
"""Orders that begin with the most."""
FLOWS = 5000
"""Of a host at most: there may be a hundred thousand."""
LEAST = 5
"""Lines of a terminal that has nothing below the flows, with two of them."""
FILTER_MAX = 100
"""Characters."""


@dataclass(frozen=True)
class Sample:
    """What the daemon said. at: seconds, of a clock that only goes on."""

    at: float
    status: Json
    flows: Sequence[Json]


@dataclass(frozen=True)
class State:
    """What keys have set. typing: keys go into the filter until Enter or Escape."""

    order: str = "p"
    turned: bool = False
    filter: str = ""
    typing: bool = False
    held: bool = False
    ended: bool = False

    @property
    def downwards(self) -> bool:
        """Whether the most comes first."""
        return (self.order in DOWNWARDS) != self.turned

    def key(self, key: str) -> "State":
        """The state after a key; one without a meaning changes nothing."""
        if self.typing:
            return self._typed(key)
        if key in SORTS:
            return replace(self, order=key, turned=False)
        moves: dict[str, dict[str, Any]] = {
            "r": {"turned": not self.turned},
            "/": {"typing": True},
            " ": {"held": not self.held},
            "q": {"ended": True},
            "\x03": {"ended": True},
            "\x1b": {"filter": ""},
        }
        return replace(self, **moves.get(key, {}))

    def _typed(self, key: str) -> "State":
        if key in ("\r", "\n"):
            return replace(self, typing=False)
        if key == "\x1b":
            return replace(self, typing=False, filter="")
        if key == "\x03":
            return replace(self, ended=True)
        if key in ("\x7f", "\b"):
            return replace(self, filter=self.filter[:-1])
        if key.isprintable():
            return replace(self, filter=(self.filter + key)[:FILTER_MAX])
        return self


def chosen(state: State, found: Sequence[Hop]) -> list[Hop]:
    """The hops that the filter lets by, in order. The filter: words that all have to be in the
    flow, a VM's name, the path or the reason."""
    words = state.filter.lower().split()
    kept = [
        hop
        for hop in found
        if all(word in f"{hop.key} {hop.vm} {hop.to} {hop.path} {hop.reason}" for word in words)
    ]
    kept.sort(key=lambda hop: hop.key)  # what is alike keeps its place from look to look
    return sorted(kept, key=SORTS[state.order][1], reverse=state.downwards)


def show(state: State, old: Sample, new: Sample, columns: int, lines: int) -> Group:
    """The view, of `columns` by `lines` at most. Rates are of the time between the samples."""
    seconds = new.at - old.at
    found = rates.hops(old.flows, new.flows, seconds)
    head = _head(state, new, found, columns)
    below = _bottom(old, new, seconds, columns)[: max(0, lines - LEAST)]
    room = max(1, lines - LEAST + 1 - len(below))
    kept = chosen(state, found)
    count = f"{len(kept):,}{'+' if len(new.flows) >= FLOWS else ''}"
    table = _flows(state, kept[:room], columns, count)
    rest = len(kept) - room
    foot = Text(_cut(_prompt(state, rest), columns), style="dim", no_wrap=True)
    return Group(head, table, *below, foot)


def _prompt(state: State, rest: int) -> str:
    if state.typing:
        return f"filter: {state.filter}_"
    more = f"{rest} more  " if rest > 0 else ""
    return f"{more}{KEYS}"


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else f"{text[: max(0, columns - 1)]}…"


def _head(state: State, new: Sample, found: Sequence[Hop], columns: int) -> Text:
    status = new.status
    paths = {path: sum(hop.per_s for hop in found if hop.path == path) for path in rates.PATHS}
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(status["host"], style="bold")
    if status["foreground"]:
        head.append(f" {status['foreground']}", style="bold magenta")
    for path, rate in paths.items():
        head.append(f" {path} {rates.said(rate)}/s", style=STYLES[path])
    head.append(f" loop {status.get('loop_ms', 0):g} ms", style="dim")
    if state.held:
        head.append(" held", style="reverse")
    if state.filter and not state.typing:
        head.append(f" /{state.filter}", style="italic")
    head.truncate(columns, overflow="ellipsis")
    return head


def _flows(state: State, hops: Sequence[Hop], columns: int, count: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), width=columns, header_style="bold")

    def mark(order: str) -> str:
        return "" if order != state.order else DOWN if state.downwards else UP

    table.add_column(
        f"flow ({count}){mark('k')}", no_wrap=True, overflow="ellipsis", ratio=3, min_width=12
    )
    if columns >= 60:
        table.add_column(f"hop{mark('v')}", no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("path", no_wrap=True)
    table.add_column(f"pkt/s{mark('p')}", justify="right", no_wrap=True)
    if columns >= 60:
        table.add_column(f"bytes/s{mark('b')}", justify="right", no_wrap=True)
    if columns >= 80:
        table.add_column(f"packets{mark('n')}", justify="right", no_wrap=True)
    if columns >= 120:
        table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=2)
    for hop in hops:
        row = [Text(hop.key if columns >= 60 else _short(hop))]
        if columns >= 60:
            row.append(Text(f"{hop.vm} → {hop.to}"))
        row.append(Text(hop.path, style=STYLES.get(hop.path, "")))
        row.append(Text(rates.said(hop.per_s), style="" if hop.per_s else "dim"))
        if columns >= 60:
            row.append(Text(rates.said(hop.bytes_per_s)))
        if columns >= 80:
            row.append(Text(f"{hop.packets:,}"))
        if columns >= 120:
            row.append(Text(hop.reason, style="dim"))
        table.add_row(*row)
    return table


def _short(hop: Hop) -> str:
    """A flow and its hop for a narrow terminal: the VM, and whom it talks to."""
    return f"{hop.vm}→{hop.to} {hop.key.partition('>')[2]}"


def _bottom(old: Sample, new: Sample, seconds: float, columns: int) -> list[Text]:
    """Ports, drops, functions, equipment: a line each."""
    was = {port["name"]: port for port in old.status["switch"]["ports"]}
    parts = [
        ("ports/s", [_port(was.get(port["name"], port), port, seconds) for port in _ports(new)]),
        ("drops", _drops(old.status, new.status, seconds)),
        ("rings", _rings(old.status, new.status, seconds)),
        ("ill", _ill(new.status)),
        ("equipment", _devices(new.status)),
    ]
    found = []
    for title, words in parts:
        if words:
            text = Text(no_wrap=True)
            text.append(f"{title} ", style="bold")
            said = "  ".join(words)  # names of devices come from outside
            text.append("".join(c if c.isprintable() else "?" for c in said))
            text.truncate(columns, overflow="ellipsis")
            found.append(text)
    return found


def _ports(sample: Sample) -> Sequence[Json]:
    ports: Sequence[Json] = sample.status["switch"]["ports"]
    return sorted(ports, key=lambda port: -(port["rx_packets"] + port["tx_packets"]))


def _port(was: Json, port: Json, seconds: float) -> str:
    into, out = (rates.of(was[f"{w}_packets"], port[f"{w}_packets"], seconds) for w in ("rx", "tx"))
    down = "" if port["state"] == "up" else f" {port['state']}"
    return f"{port['name']} ↑{rates.said(into)} ↓{rates.said(out)}{down}"


def _losses(status: Json) -> dict[str, int]:
    """Drops by place and name."""
    found: dict[str, int] = {}
    for place, drops in (
        ("switch", status["switch"].get("drops")),
        *((node["name"], node.get("drops")) for node in (*status["vms"], *status["endpoints"])),
    ):
        found |= {f"{place} {reason}": count for reason, count in (drops or {}).items()}
    for node in status["vms"]:
        for name, count in node.get("nf", {}).get("counters", {}).items():
            if name.startswith(("drop-", "full_")) or name == "dropped":
                found[f"{node['name']} {name}"] = count
    return found


def _drops(was: Json, status: Json, seconds: float) -> list[str]:
    """The ones that grow come first."""
    old, new = _losses(was), _losses(status)
    by_rate = {name: rates.of(old.get(name, 0), count, seconds) for name, count in new.items()}
    names = sorted((name for name in new if new[name]), key=lambda name: (-by_rate[name], name))
    return [
        f"{name} {new[name]:,}" + (f" (+{rates.said(by_rate[name])}/s)" if by_rate[name] else "")
        for name in names
    ]


def _rings(was: Json, status: Json, seconds: float) -> list[str]:
    old = {node["name"]: node.get("nf", {}).get("counters", {}) for node in was["vms"]}
    found = []
    for node in status["vms"]:
        counters = node.get("nf", {}).get("counters")
        if counters is None:
            continue
        before = old.get(node["name"], {})
        out, into = (
            rates.of(before.get(name, 0), counters.get(name, 0), seconds)
            for name in ("ring_out", "ring_in")
        )
        found.append(f"{node['name']} ↑{rates.said(out)} ↓{rates.said(into)}")
    return found


def _ill(status: Json) -> list[str]:
    nodes = (*status["vms"], *status["endpoints"])
    found = [f"{node['name']} {node['state']}" for node in nodes if node["state"] != "running"]
    found += [f"{node['name']}: {node['unlike']}" for node in nodes if node.get("unlike")]
    return found + [one["said"] for one in status["switch"].get("taken_off", [])]


def _devices(status: Json) -> list[str]:
    return [
        f"{device.get('name')}: {device.get('owner') or device.get('why') or 'nobody'}"
        for device in status["devices"]
    ]
