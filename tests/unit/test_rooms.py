# SPDX-License-Identifier: Apache-2.0
"""The rooms of cext, kept by a test: cext/meson.build lists them, and the order is a law.

A file of a room includes only its own room and the rooms that stand before it; includes in quotes
are written from cext/ ("ring/channel.h"). Between the files there is no circle at link level: a
file depends on each file that defines a function hs_* which it names, wherever it names it. In a
header only the bodies of its functions count, for a prototype depends on nothing.
"""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CEXT = Path(__file__).parents[2] / "cext"
ENDINGS = (".c", ".h", ".cdef")

SUBDIR = re.compile(r"^subdir\('([^']+)'\)", re.M)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', re.M)
NO_CODE = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|^[ \t]*#[ \t]*include[^\n]*', re.S | re.M
)
FUNCTION = re.compile(r"^([A-Za-z_][\w \t*]*?[ \t*])(\w+)\(([^;{}]*)\)\s*\{(.*?)^\}", re.S | re.M)
NAMED = re.compile(r"(?<!struct )(?<!enum )(?<!union )\bhs_\w+\b")


def rooms(cext: Path) -> list[str]:
    """The rooms, the lowest first."""
    return SUBDIR.findall((cext / "meson.build").read_text())


def files(cext: Path) -> dict[str, Path]:
    """Every source by its path from cext/."""
    found = [path for path in cext.rglob("*") if path.suffix in ENDINGS]
    return {path.relative_to(cext).as_posix(): path for path in sorted(found)}


def room_of(name: str) -> str:
    return name.partition("/")[0]


def bad_includes(cext: Path) -> Iterator[str]:
    """What breaks the law of the rooms, one line each."""
    order = rooms(cext)
    for name, path in files(cext).items():
        if room_of(name) not in order:
            yield f"{name} stands in no room of meson.build"
            continue
        below = order[: order.index(room_of(name)) + 1]
        for other in INCLUDE.findall(path.read_text()):
            if not (cext / other).is_file():
                yield f'{name} includes "{other}", which is no file seen from cext/'
            elif room_of(other) not in below:
                yield f'{name} includes upwards: "{other}"'


def code(path: Path) -> str:
    """The text without comments, strings and includes."""
    return NO_CODE.sub(" ", path.read_text())


def links(cext: Path) -> dict[str, set[str]]:
    """By file: the files that define functions which it names."""
    text = {name: code(path) for name, path in files(cext).items() if path.suffix != ".cdef"}
    home: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for name, body in text.items():
        found = FUNCTION.findall(body)
        for before, function, _, _ in found:
            if name.endswith(".h") or "static" not in before.split():
                home.setdefault(function, set()).add(name)
        said = " ".join(inside for *_, inside in found) if name.endswith(".h") else body
        names[name] = set(NAMED.findall(said))
    return {
        name: {other for word in said for other in home.get(word, ())} - {name}
        for name, said in names.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The files of one circle in their order; empty: there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def bad_links(cext: Path) -> Iterator[str]:
    """Functions of higher rooms that a file reaches without an include."""
    order = rooms(cext)
    for name, others in links(cext).items():
        for other in sorted(others):
            if order.index(room_of(other)) > order.index(room_of(name)):
                yield f"{name} calls upwards, into {other}"


def test_a_room_includes_only_rooms_before_it() -> None:
    assert list(bad_includes(CEXT)) == []


def test_a_room_calls_only_rooms_before_it() -> None:
    assert list(bad_links(CEXT)) == []


def test_there_is_no_circle_between_files() -> None:
    assert " -> ".join(circle(links(CEXT))) == ""


def test_the_order_of_the_port() -> None:
    """Each of its files by what it stands on (port/parts.h)."""
    parts = ("wake", "frames", "recv", "send", "wait", "loop", "life")
    port = {f"port/{part}.c" for part in parts}
    stands_on = {
        "wake": "",
        "frames": "wake",
        "recv": "wake frames",
        "send": "wake frames recv",
        "wait": "wake frames",
        "loop": "wake frames recv send wait",
        "life": "frames",
    }
    found = links(CEXT)
    for part, below in stands_on.items():
        ours = found[f"port/{part}.c"] & port
        assert ours <= {f"port/{other}.c" for other in below.split()}, part
    assert found["port/loop.c"] >= {"port/recv.c", "port/send.c", "port/wait.c"}


def test_every_room_is_in_the_list_and_every_source_in_a_room() -> None:
    order = rooms(CEXT)
    assert len(order) == len(set(order))
    assert {room_of(name) for name in files(CEXT)} == set(order)


# The checker itself, on small trees that break the law.

LOW_H = "#ifndef LOW_H\n#define LOW_H\nint hs_low(void);\n#endif\n"
LOW_C = '#include "low/low.h"\n\nint hs_low(void) {\n    return 1;\n}\n'
HIGH_C = """#include "low/low.h"

int hs_high(int more,
            int less) {
    return hs_low();
}
"""
TREE = {
    "meson.build": "cdefs = []\nsubdir('low')\nsubdir('high')\n",
    "low/low.h": LOW_H,
    "low/low.c": LOW_C,
    "high/high.h": "int hs_high(int more, int less);\n",
    "high/high.c": HIGH_C,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that keeps the law."""
    for name, text in TREE.items():
        plant(tmp_path, name, text)
    return tmp_path


def plant(cext: Path, name: str, text: str) -> None:
    path = cext / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_lawful_tree_has_no_fault(tree: Path) -> None:
    assert rooms(tree) == ["low", "high"]
    assert list(bad_includes(tree)) == []
    assert list(bad_links(tree)) == []
    assert links(tree)["high/high.c"] == {"low/low.c"}
    assert circle(links(tree)) == []


@pytest.mark.parametrize("name", ["low/low.c", "low/low.h", "low/low.cdef", "low/low.bpf.c"])
def test_an_upward_include_is_found(tree: Path, name: str) -> None:
    plant(tree, name, TREE.get(name, "") + '#include "high/high.h"\n')
    assert list(bad_includes(tree)) == [f'{name} includes upwards: "high/high.h"']


@pytest.mark.parametrize("other", ["low.h", "low/none.h", "../low/none.h", "low"])
def test_an_include_that_is_not_written_from_cext_is_found(tree: Path, other: str) -> None:
    plant(tree, "high/high.c", f'  #  include "{other}"\n')
    (fault,) = bad_includes(tree)
    assert fault == f'high/high.c includes "{other}", which is no file seen from cext/'


def test_a_source_outside_the_rooms_is_found(tree: Path) -> None:
    plant(tree, "attic/old.c", "int hs_old;\n")
    assert list(bad_includes(tree)) == ["attic/old.c stands in no room of meson.build"]


def test_an_upward_call_without_an_include_is_found(tree: Path) -> None:
    plant(
        tree,
        "low/more.c",
        "int hs_high(int, int);\nint hs_more(void) {\n    return hs_high(1, 2);\n}\n",
    )
    assert list(bad_links(tree)) == ["low/more.c calls upwards, into high/high.c"]


def test_a_circle_is_found(tree: Path) -> None:
    plant(
        tree, "low/more.c", '#include "low/low.h"\nint hs_more(void) {\n    return hs_low();\n}\n'
    )
    assert circle(links(tree)) == []
    plant(tree, "low/low.c", "int hs_more(void);\nint hs_low(void) {\n    return hs_more();\n}\n")
    assert set(circle(links(tree))) == {"low/low.c", "low/more.c"}


def test_a_circle_by_a_function_that_is_handed_on_is_found(tree: Path) -> None:
    plant(tree, "low/more.c", "int hs_more(void) {\n    return hs_low();\n}\n")
    plant(
        tree,
        "low/low.c",
        "int (*const way)(void) = hs_more;\nint hs_low(void) {\n    return 1;\n}\n",
    )
    assert set(circle(links(tree))) == {"low/low.c", "low/more.c"}


def test_a_circle_through_a_header_is_found(tree: Path) -> None:
    inline = "static inline int hs_twice(void) {\n    return 2 * hs_low();\n}\n"
    plant(tree, "low/low.h", LOW_H + inline)
    assert circle(links(tree)) == []
    plant(tree, "low/low.c", "int hs_low(void) {\n    return hs_twice();\n}\n")
    assert set(circle(links(tree))) == {"low/low.c", "low/low.h"}


@pytest.mark.parametrize(
    "harmless",
    [
        "/* hs_high(1, 2) would call us.\n * So we do not. */\n",
        "// hs_high\n",
        'const char *const said = "hs_high(\\"1\\")";\n',
        "struct hs_high;\nextern struct hs_high *one;\n",
    ],
)
def test_what_only_speaks_of_a_function_is_no_call(tree: Path, harmless: str) -> None:
    plant(tree, "low/low.c", harmless + LOW_C)
    assert list(bad_links(tree)) == []
    assert circle(links(tree)) == []
