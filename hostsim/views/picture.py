# SPDX-License-Identifier: Apache-2.0
"""What a picture of a host shows: boxes, cables and arrows, before any language draws it. Pure.

    picture(was, status, before, after, seconds) -> Picture

Boxes are VMs, operating systems, endpoints, the switch and the equipment. A cable joins a port of
the switch with its VM, with the packets/s of both ways together. An arrow joins two VMs of a chain:
all flows together that go from one to the other by one path, in both directions. A path that
carries nothing now is left out if another one of the same two does. What the switch delivers to the
outside is on the cables.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hostsim.views import rates

Json = dict[str, Any]

SWITCH = "switch"


@dataclass(frozen=True)
class Box:
    """id: unlike every other's, of letters, digits and `_`; kind: endpoint, vm, os, switch or
    device; lines: under the name."""

    id: str
    kind: str
    name: str
    lines: tuple[str, ...] = ()
    ill: bool = False
    foreground: bool = False


@dataclass(frozen=True)
class Line:
    """From a box to another, and perhaps back. kind: cable (no direction), owner, or a path; back:
    it has an arrow at its start; ahead: at its end."""

    start: str
    end: str
    kind: str
    label: str = ""
    idle: bool = False
    ahead: bool = True
    back: bool = False


@dataclass
class Picture:
    """See the module."""

    title: str
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def picture(
    was: Json, status: Json, before: Iterable[Json], after: Iterable[Json], seconds: float
) -> Picture:
    """The host as it is now.

    was, status: the contract's `status`, then and now
    before, after: its `flows`
    seconds: between then and now
    """
    shown = Picture(f"hostsim {status['host']}")
    ids: dict[str, str] = {}
    for kind, nodes in (("endpoint", status["endpoints"]), ("vm", status["vms"])):
        for node in nodes:
            ids[node["name"]] = f"n{len(ids)}"
            shown.boxes.append(_node(ids[node["name"]], kind, node, status["foreground"]))
    shown.boxes.append(Box(SWITCH, SWITCH, "switch", (status["switch"]["netns"],)))
    old_ports = {port["name"]: port for port in was["switch"]["ports"]}
    for port in status["switch"]["ports"]:
        if port["name"] not in ids:  # an uplink
            ids[port["name"]] = f"n{len(ids)}"
            ill = port["state"] != "up"
            shown.boxes.append(
                Box(ids[port["name"]], "endpoint", port["name"], ("uplink",), ill=ill)
            )
        old = old_ports.get(port["name"], port)
        out, into = (
            rates.of(old[f"{way}_packets"], port[f"{way}_packets"], seconds) for way in ("rx", "tx")
        )
        label = f"{rates.said(out + into)}/s" if out + into else ""
        shown.lines.append(Line(SWITCH, ids[port["name"]], "cable", label, idle=not label))
    shown.lines += _arrows(rates.lanes(before, after, seconds), ids)
    for number, device in enumerate(status["devices"]):
        name, owner = f"d{number}", device.get("owner")
        words = (str(device.get("mode")), *(() if owner else ("nobody has it",)))
        shown.boxes.append(
            Box(name, "device", str(device.get("name")), words, ill=bool(device.get("why")))
        )
        if owner in ids:
            shown.lines.append(Line(name, ids[owner], "owner"))
    return shown


def _node(name: str, kind: str, node: Json, foreground: str | None) -> Box:
    lines = [address.partition("/")[0] for address in node.get("addresses", ())]
    if "nf" in node:
        lines.append(f"nf {node['nf']['name']}")
    front = node["name"] == foreground
    if front:
        lines.append("foreground")
    ill = node["state"] != "running"
    if ill:
        lines.append(node["state"])
    kind = "os" if node["os"] else kind
    return Box(name, kind, node["name"], tuple(lines), ill=ill, foreground=front)


def _arrows(lanes: Iterable[rates.Lane], ids: dict[str, str]) -> list[Line]:
    """One line for two VMs and a path, from the VM that the host file names first."""
    order = list(ids)
    both: dict[tuple[str, str], dict[str, list[rates.Lane]]] = {}
    for lane in lanes:
        if lane.vm in ids and lane.to in ids:
            first, second = sorted((lane.vm, lane.to), key=order.index)
            both.setdefault((first, second), {}).setdefault(lane.path, []).append(lane)
    found = []
    for (first, second), paths in both.items():
        busy = {path for path, of in paths.items() if any(lane.per_s for lane in of)}
        most = max(paths, key=lambda path: sum(lane.packets for lane in paths[path]))
        for path in rates.PATHS:
            if path in (busy or {most}):
                found.append(_arrow(ids[first], ids[second], first, path, paths[path]))
    return found


def _arrow(start: str, end: str, first: str, path: str, lanes: list[rates.Lane]) -> Line:
    ahead = sum(lane.per_s for lane in lanes if lane.vm == first)
    back = sum(lane.per_s for lane in lanes if lane.vm != first)
    label = f"{path} {rates.said(ahead + back)}/s" if ahead + back else f"{path}, idle"
    both = {lane.vm == first for lane in lanes if lane.per_s} or {
        lane.vm == first for lane in lanes
    }
    return Line(start, end, path, label, not ahead + back, True in both, False in both)
