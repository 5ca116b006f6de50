# SPDX-License-Identifier: Apache-2.0
"""A picture in graphviz's language, and the style sheet for the SVG that graphviz makes. Pure.

Every node and edge has a class. The SVG gets a style sheet for them that follows the reader's
light or dark (prefers-color-scheme); the colours that are written at each object, for readers who
know no style sheets, are seen on both.
"""

from collections.abc import Iterator

from hostsim.views.picture import SWITCH, Box, Line, Picture

COLORS = {
    # kind        light      dark       drawn without a style sheet
    "veth":     ("#0a7a3c", "#4ade80", "#16a34a"),
    "ring":     ("#0369a1", "#38bdf8", "#0284c7"),
    "switch":   ("#b45309", "#fbbf24", "#d97706"),
    "cable":    ("#94a3b8", "#64748b", "#94a3b8"),
    "owner":    ("#7e22ce", "#c084fc", "#a855f7"),
    "ill":      ("#b91c1c", "#f87171", "#ef4444"),
    "text":     ("#1e293b", "#e2e8f0", "#64748b"),
    "faint":    ("#475569", "#94a3b8", "#64748b"),
}  # fmt: skip
FILL = {
    "endpoint": ("#f1f5f9", "#1e293b"),
    "vm":       ("#ffffff", "#0f172a"),
    "os":       ("#faf5ff", "#2e1065"),
    "switch":   ("#fef9c3", "#422006"),
    "device":   ("#fdf4ff", "#3b0764"),
}  # fmt: skip
"""Of boxes: light, dark. Without a style sheet they are not filled."""
PAGE = ("#ffffff", "#0b1120")
ROUNDED = {"vm", "os", "device"}
FONT = "Helvetica,Arial,sans-serif"


def dot(picture: Picture) -> str:
    """The picture as a file of graphviz's."""
    return "\n".join(_lines(picture)) + "\n"


ROWS = (("endpoint",), ("switch",), ("vm", "os"), ("device",))
"""Of boxes by kind, the uppermost first."""


def styled(svg: str) -> str:
    """Graphviz's SVG with the style sheet."""
    head = svg.index(">", svg.index("<svg")) + 1
    dark = "\n".join(f"  {rule}" for rule in _rules(1))
    sheet = "\n".join([*_rules(0), "@media (prefers-color-scheme: dark) {", dark, "}"])
    return f"{svg[:head]}\n<style>\n{sheet}\n</style>{svg[head:]}"


def _rules(tone: int) -> Iterator[str]:
    """tone: 0 light, 1 dark."""
    shapes = ("path", "polygon")
    yield f"svg {{ background: {PAGE[tone]} }}"
    for kind, fill in FILL.items():
        for shape in shapes:
            yield f".node.{kind} {shape} {{ fill: {fill[tone]}; stroke: {COLORS['faint'][tone]} }}"
    yield f".node text {{ fill: {COLORS['text'][tone]} }}"
    for kind, name in (("front", "owner"), ("ill", "ill")):
        for shape in shapes:
            yield f".node.{kind} {shape} {{ stroke: {COLORS[name][tone]} }}"
    for kind in ("veth", "ring", "switch", "cable", "owner"):
        color = COLORS[kind][tone]
        yield f".edge.{kind} path {{ stroke: {color} }}"
        yield f".edge.{kind} polygon {{ fill: {color}; stroke: {color} }}"
        yield f".edge.{kind} text {{ fill: {COLORS['faint'][tone] if kind == 'cable' else color} }}"


def _lines(picture: Picture) -> Iterator[str]:
    yield f"digraph {_quoted(picture.title)} {{"
    yield '  graph [bgcolor="transparent", nodesep=0.4, ranksep=0.75, pad=0.3,'
    yield f'    fontname="{FONT}", outputorder=edgesfirst];'
    yield f'  node [fontname="{FONT}", fontsize=12, margin="0.16,0.09"];'
    yield f'  edge [fontname="{FONT}", fontsize=10, arrowsize=0.7];'
    for row in ROWS:
        yield "  {"
        yield "    rank=same;"
        for box in picture.boxes:
            if box.kind in row:
                yield f"    {box.id} [{_box(box, len(picture.boxes))}];"
        yield "  }"
    kinds = {box.id: box.kind for box in picture.boxes}
    for line in picture.lines:
        # An edge goes down, so that graphviz puts the rows in order; its arrow may point up.
        up = line.kind == "owner" or kinds[line.end] == "endpoint"
        start, end = (line.end, line.start) if up else (line.start, line.end)
        yield f"  {start} -> {end} [{_line(line, up)}];"
    yield "}"


def _box(box: Box, boxes: int) -> str:
    classes = [box.kind, *(["ill"] if box.ill else []), *(["front"] if box.foreground else [])]
    style = "rounded" if box.kind in ROUNDED else "solid"
    color = COLORS["ill" if box.ill else "owner" if box.foreground else "faint"][2]
    words = [f"<B>{_text(box.name)}</B>"]
    words += [f'<FONT POINT-SIZE="10">{_text(line)}</FONT>' for line in box.lines]
    wide = f", width={min(12, 1 + 0.7 * boxes):g}, height=0.6" if box.id == SWITCH else ""
    width = 2 if box.foreground or box.ill else 1
    return (
        f'class="{" ".join(classes)}", shape=box, style="{style}", '
        f'color="{color}", fontcolor="{COLORS["text"][2]}", penwidth={width}, '
        f"label=<{'<BR/>'.join(words)}>{wide}"
    )


def _line(line: Line, up: bool) -> str:
    color = COLORS[line.kind][2]
    words = [
        f'class="{line.kind}{" idle" if line.idle else ""}"',
        f'color="{color}"',
        f'fontcolor="{color}"',
    ]
    if line.label:
        words.append(f"label={_quoted(f' {line.label} ')}")
    if line.kind == "cable":
        words.append("dir=none")
    elif line.kind == "owner":
        words.append(f'style="dotted", dir={"back" if up else "forward"}')
    else:
        way = "both" if line.ahead and line.back else "back" if line.back else "forward"
        words.append(f"penwidth=2, dir={way}")
        if line.idle:
            words.append('style="dashed"')
    return ", ".join(words)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _text(text: str) -> str:
    """In a label of graphviz's that is like HTML. Names of devices come from outside."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
