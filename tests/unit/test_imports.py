# SPDX-License-Identifier: Apache-2.0
"""The house, kept by a test: which module may import which (hostsim/README.md, "The house").

`cli -> client -> protocol`; `daemon -> host -> parts -> {netns, cext} -> model, errors`. Reads the
sources' syntax trees, so an import inside a function counts too.
"""

import ast
import gc
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hostsim", "netns", "cext")
BASE = {"hostsim", "hostsim.errors", "hostsim.model"}
"""What any module of hostsim may import."""
ONE_USER = {"pyroute2": "netns.links", "evdev": None, "pyudev": None}
"""Libraries that one module alone imports; None: whichever, but one."""

ROOMS = {
    # room        its modules and folders                       the rooms it may import
    "ground":   ("errors model names keys needs restart protocol service logfiles",    ""),
    "hostfile": ("hostfile",                                    "ground"),
    "images":   ("images",                                      "ground"),
    "machine":  ("boot booted etc fence giving idranges introductions ownroot vm switch logs "
                 "programs teardown leftovers members",
                                "ground images"),
    "routing":  ("routing",                                     "ground machine"),
    "nf":       ("nf",                                          "ground hostfile machine routing"),
    "kmc":      ("kmc",                                         "ground machine"),
    "assembly": ("assembly",                                    "ground machine routing nf"),
    "host":     ("host changes condition restarts carriers daemon clients stalls asides "
                 "settling longwinded remaking ahead beforehand serving systems",
                                "ground hostfile machine routing nf kmc assembly"),
    "forked":   ("forked",                                      "ground routing host"),
    "views":    ("views",                                       "ground"),
    "capture":  ("capture",                                     "ground hostfile routing"),
    "cli":      ("cli __main__",      "ground hostfile images routing kmc forked views capture"),
    "lab":      ("lab",                      "ground hostfile machine capture cli"),
    "examples": ("examples",                                    "lab"),
    "bench": ("bench", "ground hostfile images machine routing nf kmc assembly host cli capture"),
}  # fmt: skip
"""The rooms of hostsim, the lowest first: a room imports only rooms that stand above it in this
table, and of those the ones that it names."""

IO = {
    "asyncio", "concurrent", "ctypes", "fcntl", "mmap", "multiprocessing", "os", "select",
    "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip
PURE = {"netns.errors", "hostsim.errors", "hostsim.model", "hostsim.protocol"}
"""Pure by name; a module is also pure if its docstring says so ("Pure")."""

COMMANDS = (
    "capture",
    "images",
    "inside",
    "install",
    "life",
    "logs",
    "looks",
    "ping",
    "tools",
    "trace",
    "views",
)
"""Modules of hostsim.cli that add commands."""

NOT_INSTALLED = {"pytest", "hypothesis", "scapy", "mypy", "ruff"}
OPTIONAL = {
    "hostsim.lab.scapyconf": {"scapy"},
    "hostsim.lab.scapysockets": {"scapy"},
    "hostsim.lab.plugin": {"pytest"},
}
"""Modules that are imported only by who has the library, and which."""


def tree(path: Path) -> ast.Module:
    gc.disable()  # a collection in the middle of it can end it: CPython gh-106905
    try:
        return ast.parse(path.read_text(), str(path))
    finally:
        gc.enable()


def modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            words = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """Full names of the modules that module `name` imports, of the project and others."""
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES or full == "cext._native" else node.module


def ours(name: str) -> set[str]:
    """What module `name` imports of the project."""
    return {other for other in imported(name) if other.partition(".")[0] in PACKAGES} - {name}


def users_of(target: str) -> set[str]:
    return {name for name in MODULES if target in ours(name)}


def test_netns_and_cext_know_nothing_of_hosts() -> None:
    for name in MODULES:
        package = name.partition(".")[0]
        allowed = {"netns": {"netns", "cext"}, "cext": {"cext"}}.get(package)
        if allowed is not None:
            above = {x for x in ours(name) if x.partition(".")[0] not in allowed}
            assert not above, f"{name} imports {above}"


def test_nobody_imports_the_command_line_or_the_daemon() -> None:
    assert users_of("hostsim.cli.main") == {"hostsim.cli.start"}
    assert users_of("hostsim.cli.start") == {"hostsim.__main__"}
    assert users_of("hostsim.daemon") == {"hostsim.forked"}
    assert users_of("hostsim.forked") == {"hostsim.cli.life"}
    assert users_of("hostsim.host") <= {"hostsim.serving"}
    assert users_of("hostsim.serving") <= {"hostsim.daemon"}
    assert users_of("hostsim.cli.client") <= command_line() | {"hostsim.lab.host"} | benches()
    assert users_of("hostsim.cli.show") <= command_line() | benches()


def command_line() -> set[str]:
    return {name for name in MODULES if name.startswith("hostsim.cli.")}


def benches() -> set[str]:
    return {name for name in MODULES if name.startswith("hostsim.bench")}


def test_benches_are_used_by_benches_alone() -> None:
    for name in benches():
        assert users_of(name) <= benches() | command_line(), name


def test_the_client_speaks_to_a_daemon_and_runs_none() -> None:
    parts = {x for x in ours("hostsim.cli.client") if x.startswith("hostsim.")}
    assert parts <= {"hostsim.protocol", "hostsim.errors", "hostsim.model", "hostsim.cli.enter"}
    assert ours("hostsim.protocol") <= BASE


def test_parts_do_not_know_the_host() -> None:
    names = (*COMMANDS, "start", "main", "client", "show", "check")
    commands = {f"hostsim.cli.{name}" for name in names}
    labs = {"hostsim.lab.host", "hostsim.lab.plugin"}
    top = {
        "hostsim.daemon",
        "hostsim.forked",
        "hostsim.serving",
        "hostsim.host",
        *labs,
        *commands,
        *benches(),
    }
    # "hostsim" imports the laboratory when somebody asks for it
    for name in set(MODULES) - top - {"hostsim", "hostsim.__main__", "hostsim.cli.grammar"}:
        assert not ours(name) & top, f"{name} imports {ours(name) & top}"


def room_of(name: str) -> str:
    """The room of a module of hostsim."""
    part = name.split(".")[1]
    found = [room for room, (parts, _) in ROOMS.items() if part in parts.split()]
    assert len(found) == 1, f"{name} is in no room of this test's table, or in several: {found}"
    return found[0]


def test_the_table_of_rooms_has_an_order() -> None:
    seen: set[str] = set()
    for room, (_, below) in ROOMS.items():
        assert set(below.split()) <= seen, room
        seen.add(room)


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("hostsim.")])
def test_a_room_imports_only_the_rooms_it_stands_on(name: str) -> None:
    room = room_of(name)
    others = {other for other in ours(name) if other.startswith("hostsim.")}
    reached = {room_of(other) for other in others}
    assert reached <= {room, *ROOMS[room][1].split()}, f"{name} of room {room!r} reaches too far"


def test_routing_does_not_know_the_packet_functions() -> None:
    for name in MODULES:
        if name.startswith("hostsim.routing"):
            assert not {other for other in ours(name) if other.startswith("hostsim.nf")}, name


def test_errors_and_model_stand_on_nothing() -> None:
    assert ours("netns.errors") == set()
    assert ours("hostsim.errors") == {"netns.errors"}
    assert ours("hostsim.model") <= {"hostsim.errors"}


@pytest.mark.parametrize("library", ONE_USER)
def test_one_module_imports(library: str) -> None:
    users = {
        name for name in MODULES if any(x.partition(".")[0] == library for x in imported(name))
    }
    only = ONE_USER[library]
    assert users == {only} if only else len(users) <= 1, users


def test_only_cext_imports_the_compiled_extension() -> None:
    users = {name for name in MODULES if "cext._native" in imported(name)}
    assert users
    assert all(name.startswith("cext.") for name in users), users


def test_what_ships_does_not_need_the_test_tools() -> None:
    for name in MODULES:
        found = {x.partition(".")[0] for x in imported(name)} & NOT_INSTALLED
        if not name.startswith(("hostsim.bench", "hostsim.examples")):
            assert found <= OPTIONAL.get(name, set()), f"{name} imports {found}"


def test_optional_libraries_are_asked_for_by_name() -> None:
    """By importlib, once somebody needs them; lab.packets names their types."""
    for name in OPTIONAL.keys() & MODULES.keys():
        assert users_of(name) <= OPTIONAL.keys() | {"hostsim.lab.packets"}, name


def pure() -> list[str]:
    said = {name for name in MODULES if "Pure" in (ast.get_docstring(tree(MODULES[name])) or "")}
    return sorted(said | PURE)


@pytest.mark.parametrize("name", pure())
def test_a_pure_module_does_no_io(name: str) -> None:
    found = {x for x in imported(name) if x.partition(".")[0] in IO | {"netns", "cext"}}
    assert not found - set(pure())
    calls = {
        node.func.id
        for node in ast.walk(tree(MODULES[name]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


def test_no_cycles() -> None:
    try:
        TopologicalSorter({name: ours(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]), pytrace=False)
