# SPDX-License-Identifier: Apache-2.0
"""What the command line prints for a person: rich tables of the contract's JSON."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hostsim.names import PATHS

Rows = Sequence[dict[str, Any]]

WIDTH = 120  # characters
LONG = 1000
"""Rows above which a list is printed plainly."""

_STATE_STYLE = {"running": "green", "up": "green", "dead": "red", "failed": "red", "down": "red"}
_STATE_STYLE |= {"unplugged": "red", "unnamed": "yellow", "restarting": "yellow"}
_SHARES = ("loss", "duplicate", "reorder", "corrupt")
_BEFELL = ("lost", "late", "duplicated", "reordered", "corrupted")
_PATH_STYLE = {"switch": "yellow", "veth": "green", "ring": "cyan"}


def console() -> Console:
    """As wide as the terminal or COLUMNS; in a file or a pipe, wide enough for most tables."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    # Keys have brackets (IPv6) and colons: nothing in them is markup or an emoji.
    return Console(width=None if known else WIDTH, markup=False, emoji=False)


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _put(table: Table, nothing: str) -> None:
    console().print(table if table.row_count else Text(nothing, style="dim"))


def _state(state: str) -> Text:
    return Text(state, style=_STATE_STYLE.get(state, ""))


def hosts(found: Rows) -> None:
    table = _table("", ("host", "daemon", "state"))
    for row in found:
        table.add_row(row["host"], str(row["pid"] or "-"), _state(row["state"]))
    _put(table, "no hosts")


def images(found: Rows) -> None:
    table = _table("", ("image", "MiB", "operating system", "digest", "state", "used by"))
    for row in found:
        size = f"{row['size'] / (1 << 20):,.1f}"
        used = ", ".join(row["used_by"]) or "-"
        table.add_row(row["name"], size, row["os"], row["digest"][:12], row["state"], used)
    _put(table, "no images")


def _limits(limits: dict[str, Any]) -> tuple[str, str, str]:
    """At most; `-`: no limit."""
    memory, cpus, pids = (limits.get(name) for name in ("memory", "cpus", "pids"))
    return (
        "-" if memory is None else f"{memory / (1 << 20):,.0f} M",
        "-" if cpus is None else f"{cpus:g}",
        "-" if pids is None else str(pids),
    )


def status(found: dict[str, Any]) -> None:
    foreground = found["foreground"]
    title = f"host {found['host']}" + (f", foreground: {foreground}" if foreground else "")
    columns = ("", "name", "state", "pid", "memory ≤", "CPUs ≤", "tasks ≤", "netns", "addresses")
    table = _table(title, columns)
    for kind, nodes in (("VM", found["vms"]), ("endpoint", found["endpoints"])):
        for node in nodes:
            table.add_row(
                "OS" if node["os"] else kind,
                Text(node["name"], style="bold" if node["name"] == foreground else ""),
                _state(node["state"]),
                str(node["pid"]),
                *_limits(node.get("limits", {})),
                node["netns"],
                " ".join(node.get("addresses", [])) or "-",
            )
    _put(table, "an empty host")
    for node in found["vms"] + found["endpoints"]:
        if node.get("files") == "shared":
            line = f'{node["name"]}: files = "shared": its user 0 is the machine\'s'
            console().print(line, markup=False)
    for node in found["vms"]:
        if node.get("unlike"):
            line = f"{node['name']}: {node['unlike']}"
            console().print(line, markup=False)
    functions = [node for node in found["vms"] if "nf" in node]
    if functions:
        _put(_functions(functions), "")
        for node in functions:
            if node["nf"]["why"]:
                line = f"{node['name']} last ended with {node['nf']['why']}"
                Console().print(line, markup=False, highlight=False, soft_wrap=True)
    switch = found["switch"]
    table = _table(
        f"switch: {switch['bridge']} in {switch['netns']}",
        ("port", "state", "rx packets", "rx bytes", "tx packets", "tx bytes"),
    )
    for port in switch["ports"]:
        counts = (port[f"{way}_{unit}"] for way in ("rx", "tx") for unit in ("packets", "bytes"))
        table.add_row(port["name"], _state(port["state"]), *(f"{count:,}" for count in counts))
    _put(table, "the switch has no ports")
    for one in switch.get("taken_off", []):
        Console().print(one["said"], markup=False, highlight=False, soft_wrap=True)
    known = [f"{name} {n:,}" for name, n in found["switch"].get("counters", {}).items() if n]
    if known:
        console().print(f"counted by the switch: {', '.join(known)}")
    _drops(found)
    if found["devices"]:
        devices(found["devices"])


def _drops(found: dict[str, Any]) -> None:
    """What the kernel dropped, or that it does not tell."""
    if switch_drops := found["switch"].get("drops", {}):
        known = [("switch", switch_drops)]
    elif switch_drops is None:
        console().print("this kernel does not say why it drops packets (hostsim check)")
        return
    else:
        known = []
    known += [(n["name"], n["drops"]) for n in found["vms"] + found["endpoints"] if n.get("drops")]
    if known:
        table = _table("dropped by the kernel", ("where", "packets by reason"))
        for name, drops in known:
            most = sorted(drops.items(), key=lambda one: -one[1])
            table.add_row(name, ", ".join(f"{reason} {count:,}" for reason, count in most))
        _put(table, "")


def _functions(nodes: Rows) -> Table:
    table = _table("network functions", ("VM", "nf", "state", "restarts", "counted"))
    for node in nodes:
        nf = node["nf"]
        counted = [f"{name} {count:,}" for name, count in nf["counters"].items() if count]
        if nf.get("silent"):
            counted.append("(it does not answer)")
        table.add_row(
            node["name"],
            nf["name"],
            _state(nf["state"]),
            str(nf["restarts"]),
            ", ".join(counted) or "-",
        )
    return table


def links(found: Rows) -> None:
    table = _table("impaired links", ("VM", "direction", "does", "packets", "befell"))
    for row in found:
        does = [f"{key} {row[key] * 100:.4g}%" for key in _SHARES if row[key]]
        does += [f"{key} {row[key + '_ms']:g}ms" for key in ("delay", "jitter") if row[key + "_ms"]]
        does += [f"rate {row['rate']:,} bit/s"] if row["rate"] else []
        does += ["down"] if row["down"] else []
        befell = [f"{row[key]:,} {key}" for key in _BEFELL if row[key]]
        table.add_row(
            row["vm"],
            row["direction"],
            ", ".join(does) + f" (seed {row['seed']})",
            f"{row['packets']:,}",
            ", ".join(befell),
        )
    _put(table, "no link is impaired")


def pings(found: Rows) -> None:
    names = list(dict.fromkeys(row["from"] for row in found))
    table = _table("ms from one (left) to another", ("", *names))
    for name in names:
        cells = []
        for other in names:
            times = [row["ms"] for row in found if (row["from"], row["to"]) == (name, other)]
            lost = any(ms is None for ms in times)
            cells.append(
                Text("lost", style="red") if lost else Text(f"{max(times):.2f}" if times else "")
            )
        table.add_row(name, *cells)
    _put(table, "no two have an address")


def devices(found: Rows) -> None:
    table = _table("equipment", ("device", "node", "mode", "owner", "saved states"))
    for row in found:
        table.add_row(
            str(row.get("name")),
            str(row.get("node") or "-"),
            ", without ".join([str(row.get("mode")), *row.get("lacks", ())]),
            str(row.get("owner") or (f"none: {row['why']}" if row.get("why") else "-")),
            ", ".join(row.get("states", {})) or "-",
        )
    _put(table, "no equipment")


def routes(found: Rows) -> None:
    table = _table("routes (first match wins)", ("", "match", "through", "bypass", "packets"))
    for row in found:
        table.add_row(
            str(row["index"]),
            " ".join(f"{key}={value}" for key, value in row["match"].items()),
            " -> ".join(row["through"]),
            row["bypass"],
            f"{row['packets']:,}" if "packets" in row else "-",
        )
    _put(table, "no routes: everything is plainly bridged")


def _put_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A list that is too long for a table with frames and folds: that takes a millisecond a row."""
    wide = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    print(f"{title} ({len(rows):,} lines)")
    for row in (columns, *rows):
        line = "  ".join(word.ljust(size) for word, size in zip(row, wide, strict=True))
        print(line.rstrip())


def _route(row: dict[str, Any]) -> str:
    return f"{row['route']} ({row['contents']})" if row.get("contents") else str(row["route"])


def flows(found: Rows) -> None:
    columns = ("flow", "route", "hop", "path", "packets", "bytes", "reason")
    if len(found) > LONG:
        _put_plain("flows", columns, [row for flow in found for row in _flow_lines(flow)])
        return
    table = _table("flows", columns)
    for row in found:
        for nth, hop in enumerate(row["hops"]):
            first = nth == 0
            table.add_row(
                row["key"] if first else "",
                _route(row) if first else "",
                f"{hop['vm']} -> {hop['to']}" if hop.get("to") else hop["vm"],
                Text(hop["path"], style=_PATH_STYLE.get(hop["path"], "")),
                f"{hop['packets']:,}",
                f"{hop['bytes']:,}",
                hop["reason"],
            )
    _put(table, "no flows")


def _flow_lines(flow: dict[str, Any]) -> Iterable[Sequence[str]]:
    """Each hop of a flow; with no hops, the flow."""
    hops: Sequence[dict[str, Any]] = flow["hops"] or ({},)
    for hop in hops:
        name = f"{hop['vm']} -> {hop['to']}" if hop.get("to") else hop.get("vm", "-")
        counts = [f"{hop[unit]:,}" if hop else "-" for unit in ("packets", "bytes")]
        path, reason = hop.get("path", "-"), hop.get("reason", "-")
        yield (flow["key"], _route(flow), name, path, *counts, reason)


def rules(found: Rows) -> None:
    columns = ("VM", "flow", "to", "path", "epoch", "packets", "idle")
    if len(found) > LONG:
        words = ("vm", "key", "to", "path", "epoch", "packets", "idle_s")
        _put_plain("routing rules", columns, [[str(row[one]) for one in words] for row in found])
        return
    table = _table("routing rules", columns)
    for row in found:
        table.add_row(
            row["vm"],
            row["key"],
            row["to"],
            Text(row["path"], style=_PATH_STYLE.get(row["path"], "")),
            str(row["epoch"]),
            f"{row['packets']:,}",
            f"{row['idle_s']:.1f} s",
        )
    _put(table, "no rules to show: a flow without a rule goes by the switch")


def explanation(found: dict[str, Any]) -> None:
    out = console()
    route = "no route" if found["route"] is None else f"route {found['route']}"
    known = "live" if found["live"] else "not seen yet"
    head = Text(found["flow"], style="bold")
    out.print(head.append(f" at {found['vm']}: {route}, {found['direction']}", style="not bold"))
    out.print(f"{known}; next: {found['next']} ({found['why']})")
    if found["contents"]:
        out.print(" ".join(f"{kind} = {name}" for kind, name in found["contents"].items()))
    if found.get("unseen"):
        out.print("its contents will never be known: it goes where any name might send it")
    if found["undecided"]:
        out.print("its contents may still choose another route")
    if found["mirror"]:
        out.print(f"a copy goes to {found['mirror']}")
    table = _table("hops", ("hop", "path", "reason"))
    for hop in found["hops"]:
        path = Text(hop["path"], style=_PATH_STYLE.get(hop["path"], ""))
        table.add_row(f"{hop['vm']} -> {hop['to']}", path, hop["reason"])
    _put(table, "no hops: plain bridging")


def conservation(found: Rows) -> None:
    if len(found) > LONG:
        columns = ("VM", "flow", "sent", "missing")
        words = ("vm", "key", "sent", "missing")
        rows = [[str(row[one]) for one in words] for row in found]
        _put_plain("sent = switch + veth + ring + drops", columns, rows)
        return
    table = _table("sent = switch + veth + ring + drops", ("VM", "flow", "sent", "sum", "missing"))
    for row in found:
        parts = [f"{row[path]:,} {path}" for path in PATHS if row[path]]
        parts += [f"{count:,} {reason}" for reason, count in row["drops"].items()]
        style = "red" if row["missing"] else "green"
        missing = Text(str(row["missing"]), style=style)
        table.add_row(row["vm"], row["key"], f"{row['sent']:,}", " + ".join(parts), missing)
    _put(table, "nothing was sent")


def bench(found: dict[str, Any]) -> None:
    peers = sorted({peer for case in found["cases"] for peer in case["peers"]})
    cycles = any("cycles" in case for case in found["cases"])
    table = _table(
        f"bench {found['bench']}",
        (
            *("case", "unit", "hostsim"),
            *(column for peer in peers for column in (peer, f"/ {peer}")),
            *(["cycles a packet"] if cycles else []),
        ),
    )
    for case in found["cases"]:
        cells: list[str] = []
        for peer in peers:
            value, ratio = case["peers"].get(peer), case["ratio"].get(peer)
            cells += ["-" if value is None else f"{value:.4g}"]
            cells += ["-" if ratio is None else f"{ratio:.2f}x"]
        if cycles:
            cells.append(", ".join(f"{name} {n:g}" for name, n in case.get("cycles", {}).items()))
        table.add_row(case["case"], case["unit"], f"{case['value']:.4g}", *cells)
    _put(table, "no cases")
    on = found["machine"]
    text = f"{on['cpus']} x {on['cpu']}{' (virtual)' if on['virtual'] else ''}, "
    console().print(Text(f"{text}Linux {on['kernel']}, load {on['load']}", style="dim"))
