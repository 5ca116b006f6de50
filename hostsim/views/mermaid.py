# SPDX-License-Identifier: Apache-2.0
"""A picture as a mermaid flowchart (for pages that draw them: GitHub, GitLab, wikis). Pure."""

from collections.abc import Iterator

from hostsim.views.dot import COLORS
from hostsim.views.picture import Box, Line, Picture

BRACKETS = {
    "endpoint": ("[", "]"),
    "vm": ("(", ")"),
    "os": ("([", "])"),
    "switch": ("[[", "]]"),
    "device": ("{{", "}}"),
}


def mermaid(picture: Picture) -> str:
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield "flowchart TB"
    for box in picture.boxes:
        yield f"  {_box(box)}"
    for line in picture.lines:
        yield f"  {_line(line)}"
    for number, line in enumerate(picture.lines):
        yield f"  linkStyle {number} stroke:{COLORS[line.kind][2]}"
    for box in picture.boxes:
        if box.ill or box.foreground:
            color = COLORS["ill" if box.ill else "owner"][2]
            yield f"  style {box.id} stroke:{color},stroke-width:2px"


def _box(box: Box) -> str:
    before, after = BRACKETS[box.kind]
    words = "<br/>".join(map(_text, (box.name, *box.lines)))
    return f'{box.id}{before}"{words}"{after}'


def _line(line: Line) -> str:
    label = f'|"{_text(line.label)}"|' if line.label else ""
    if line.kind == "cable":
        return f"{line.start} ---{label} {line.end}"
    if line.kind == "owner":
        return f"{line.start} -.->{label} {line.end}"
    start, end = (line.start, line.end) if line.ahead else (line.end, line.start)
    return f"{start} {'<==>' if line.ahead and line.back else '==>'}{label} {end}"


def _text(text: str) -> str:
    """In quotes. Names of devices come from outside."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    for character, word in (("#", "#35;"), ("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;")):
        plain = plain.replace(character, word)
    return plain.replace(">", "#gt;")
