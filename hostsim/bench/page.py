# SPDX-License-Identifier: Apache-2.0
"""A page of benches: every run as a dot, medians, ratios, the machine, the commit and the commands.

    page(documents, about) -> text of one HTML file, which needs nothing else

Pure. Each case is a picture of its own, whose axis begins at 0: what is twice as far is twice as
much. Pictures are SVG; colours follow the reader's light or dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from hostsim.model import Json

OURS = "hostsim"
WIDTH, LEFT, RIGHT, ROW, AXIS = 680, 110, 130, 26, 26
"""Of a picture, its margins, a line of it, and the line of numbers below, in pixels."""
VALUE = 66
"""Of the right margin, up to where values end; ratios begin behind that."""
DOT = 4
STEPS = (1, 2, 2.5, 5, 10)
TICKS = 5
NAMES = ("ours", "peer", "ink", "dim", "back")
COLOURS = {
    True: ("#4cb782", "#b9a1f5", "#e6e8eb", "#8d949e", "#15181c"),
    False: ("#0b7a4b", "#6b46c1", "#1c2127", "#68707a", "#ffffff"),
}
"""By whether it is dark."""


@dataclass(frozen=True)
class About:
    """What the figures are of. left: benches that have none, and why."""

    when: str
    commit: str
    command: str
    left: Mapping[str, str]


def page(documents: Mapping[str, tuple[str, Json]], about: About) -> str:
    """documents: of each bench its command and what `hostsim bench NAME --json` prints."""
    machine: Json = next((found["machine"] for _, found in documents.values()), {})
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>hostsim bench, {escape(about.when)}</title>",
        f"<style>{_style()}</style></head><body>",
        "<h1>hostsim bench</h1>",
        _facts(machine, about),
        '<p class="key"><b class="ours">&#9679;</b> hostsim <b class="peer">&#9679;</b> a peer, by '
        "turns in one call: a dot is a run, a bar the median. &times; is the value of hostsim by "
        "that of the peer, the median over pairs of runs. Of packets, flows and bits by the second "
        "more is better; of times, memory and shares of a processor, less.</p>",
    ]
    for name, (command, found) in documents.items():
        parts.append(f'<section id="{escape(name)}"><h2>{escape(name)}</h2>')
        parts.append(f"<pre>{escape(command)}</pre>")
        parts += [_figure(case) for case in found["cases"]]
        parts.append("</section>")
    if about.left:
        rows = "".join(f"<li>{escape(n)}: {escape(why)}</li>" for n, why in about.left.items())
        parts.append(f"<h2>without figures</h2><ul>{rows}</ul>")
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def _style() -> str:
    def colours(dark: bool) -> str:
        return "".join(f"--{n}:{value};" for n, value in zip(NAMES, COLOURS[dark], strict=True))

    return (
        f":root{{{colours(False)}color-scheme:light dark}}"
        f"@media(prefers-color-scheme:dark){{:root{{{colours(True)}}}}}"
        "body{background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif;"
        f"max-width:{WIDTH}px;margin:2rem auto;padding:0 1rem}}"
        "h1{font-size:1.6rem;margin:0 0 .5rem}h2{font-size:1.2rem;margin:2.2rem 0 .3rem}"
        "h3{font-size:.95rem;margin:1rem 0 0}h3 span{color:var(--dim);font-weight:normal}"
        "pre{color:var(--dim);margin:0;white-space:pre-wrap;font-size:13px}"
        "table{border-spacing:0;margin:.5rem 0}td{padding:0 1.2rem 0 0;vertical-align:top}"
        "td:first-child,.key{color:var(--dim)}svg{display:block;width:100%;height:auto}"
        "text{fill:var(--ink);font-size:13px;font-variant-numeric:tabular-nums}"
        ".dim{fill:var(--dim);font-size:12px}line{stroke:var(--dim);stroke-opacity:.25}"
        "b.ours{color:var(--ours)}b.peer{color:var(--peer)}.ours{fill:var(--ours);stroke:var(--ours)}"
        ".peer{fill:var(--peer);stroke:var(--peer)}circle{fill-opacity:.45}"
        "line.ours,line.peer{stroke-width:3;stroke-opacity:1}"
    )


def _facts(machine: Json, about: About) -> str:
    memory = machine.get("memory", 0) / (1 << 30)
    clock = f", {machine['mhz']} MHz" if machine.get("mhz") else ""
    rows = {
        "when": about.when,
        "commit": about.commit,
        "command": about.command,
        "machine": f"{machine.get('cpus')} x {machine.get('cpu')}{clock}"
        f"{' (virtual)' if machine.get('virtual') else ''}, {memory:.1f} GiB",
        "kernel": f"Linux {machine.get('kernel')} {machine.get('arch')}",
        "load": f"{machine.get('load')} after the first bench: what else runs changes every figure",
    }
    cells = "".join(f"<tr><td>{k}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{cells}</table>"


def _figure(case: Json) -> str:
    """One case: a line for hostsim and one for each peer."""
    runs: Mapping[str, Sequence[float]] = case.get("runs") or {OURS: [case["value"]]}
    medians = {OURS: case["value"], **case["peers"]}
    most = max((value for values in runs.values() for value in values), default=0)
    top, step = scale(most)
    height = ROW * len(runs) + AXIS
    lines = []
    for tick in range(round(top / step) + 1):
        x = _x(tick * step, top)
        lines.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - AXIS}"/>')
        place = f'x="{x}" y="{height - 9}" text-anchor="middle"'
        lines.append(f'<text class="dim" {place}>{tick * step:g}</text>')
    for row, (name, values) in enumerate(runs.items()):
        y = ROW * row + ROW // 2
        kind = "ours" if name == OURS else "peer"
        lines.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        for value in values:
            lines.append(f'<circle class="{kind}" cx="{_x(value, top)}" cy="{y}" r="{DOT}"/>')
        x = _x(medians[name], top)
        lines.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{y - 9}" y2="{y + 9}"/>')
        ratio = case["ratio"].get(name)
        end, beside = WIDTH - RIGHT + VALUE, WIDTH - RIGHT + VALUE + 10
        median = f"{medians[name]:.4g}"
        lines.append(f'<text x="{end}" y="{y + 4}" text-anchor="end">{median}</text>')
        if ratio is not None:
            said = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"
            lines.append(f'<text x="{beside}" y="{y + 4}">&times;{said}</text>')
    cycles = case.get("cycles")
    more = ""
    if cycles:
        more = "; cycles a packet: " + ", ".join(f"{name} {n:g}" for name, n in cycles.items())
    head = f"{escape(case['case'])} <span>{escape(case['unit'])}{escape(more)}</span>"
    return (
        f'<h3>{head}</h3><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(case["case"])}">{"".join(lines)}</svg>'
    )


def _x(value: float, top: float) -> float:
    return round(LEFT + value / top * (WIDTH - LEFT - RIGHT), 1)


def scale(most: float) -> tuple[float, float]:
    """Where an axis that begins at 0 ends, and the step between its numbers: round ones, TICKS of
    them at most."""
    if most <= 0:
        return 1.0, 1.0
    power = 1.0
    while power * STEPS[-1] * TICKS < most:
        power *= 10
    while power * TICKS >= most:
        power /= 10
    while True:
        for step in STEPS:
            if power * step * TICKS >= most:
                count = 1
                while power * step * count < most:
                    count += 1
                return power * step * count, power * step
        power *= 10
