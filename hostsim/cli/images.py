# SPDX-License-Identifier: Apache-2.0
"""hostsim image: root file systems by name, made, listed and removed."""

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hostsim.cli import client
from hostsim.cli.grammar import Commands, Parser, complete_with, print_answer, sentence
from hostsim.errors import HostsimError
from hostsim.images import store

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:_/~-]*")
"""What a suite, a package or a mirror may be: none of them is taken for an option."""


def add(commands: Commands) -> None:
    """Add this command to the command line."""
    sub = commands.add(
        "image",
        _list,
        "root file systems, for `root` of a VM: build, import, list, remove",
        root=False,
        has_host=False,
    )
    verbs = sub.add_subparsers(metavar="VERB", required=True, parser_class=Parser)

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], text: str, root: bool = True
    ) -> Parser:
        one: Parser = verbs.add_parser(name, help=text, description=sentence(text))
        one.set_defaults(run=run, command=f"image {name}", needs_root=root)
        return one

    one = verb("build", _build, "make an image of a Debian suite (mmdebstrap, mkfs.erofs)")
    one.add_argument("name", metavar="NAME", help=f"of the image: {store.ALLOWED}")
    one.add_argument("--suite", default="bookworm", type=_word, help="default: bookworm")
    one.add_argument(
        "--include",
        metavar="PKG,...",
        default="",
        help="packages, beside those without which nothing boots",
    )
    one.add_argument("--mirror", metavar="URL", type=_word, help="where packages come from")
    one = verb("import", _import, "make an image of a directory, archive, OCI layout or image file")
    one.add_argument("name", metavar="NAME", help=f"of the image: {store.ALLOWED}")
    one.add_argument("source", metavar="FILE|DIR", type=Path, help="tar of any compression, ...")
    one.add_argument("--tag", help="which image of an OCI layout that has several")
    one = verb("list", _list, "name, size, operating system, digest, and who uses it", root=False)
    one.add_argument("--json", action="store_true", help="one JSON document, nothing else")
    one = verb("remove", _remove, "remove images that nobody uses")
    complete_with(one.add_argument("names", metavar="NAME", nargs="+"), _names)


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed")
    return text


def _names(**_: Any) -> list[str]:
    try:
        return [image.name for image in store.images()]
    except OSError:
        return []


def _build(arguments: argparse.Namespace) -> int:
    from hostsim.images import make

    packages = [word for word in arguments.include.split(",") if word]
    for package in packages:
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", package):
            raise HostsimError("image build", f"{package!r} is no package", "--include a,b,c")
    with _progress() as tell:
        image = make.build(arguments.name, arguments.suite, packages, arguments.mirror, tell)
    return _made(image)


def _import(arguments: argparse.Namespace) -> int:
    from hostsim.images import make

    with _progress() as tell:
        image = make.import_(arguments.name, arguments.source, arguments.tag, tell)
    return _made(image)


def _made(image: store.Image) -> int:
    print(f"image {image.name}: {_system(image)}, {image.size / (1 << 20):,.1f} MiB")
    return 0


def _system(image: store.Image) -> str:
    return image.release.get("PRETTY_NAME") or image.release.get("ID") or "no os-release"


def _list(arguments: argparse.Namespace) -> int:
    rows = [_row(image) for image in store.images()]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    return print_answer(arguments, rows, "images")


def _row(image: store.Image) -> dict[str, Any]:
    damaged = not image.digest
    daemons = {} if damaged else {host["pid"]: host["host"] for host in client.hosts()}
    try:
        users = [] if damaged else image.users()
    except OSError:
        damaged, users = True, []
    return {
        "name": image.name,
        "size": image.size,
        "kind": image.kind,
        "os": _system(image),
        "release": dict(image.release),
        "digest": image.digest,
        "state": "damaged" if damaged else "ok",
        "used_by": sorted({daemons.get(pid) or f"process {pid}" for pid in users}),
    }


def _remove(arguments: argparse.Namespace) -> int:
    failed = 0
    for name in arguments.names:
        try:
            store.remove(name)
            print(f"image {name} is removed")
        except HostsimError as error:
            print(f"hostsim: {error}", file=sys.stderr)
            failed = 1
    return failed


@contextmanager
def _progress() -> Iterator[Callable[[str, float | None], None]]:
    """Shows what is told: a bar on a terminal, else a line for each new thing. SIGTERM ends what
    goes on as Ctrl+C does, and what was made is gone."""
    signal.signal(signal.SIGTERM, _ended)
    if not sys.stderr.isatty():
        start, last = time.monotonic(), [""]

        def line(text: str, far: float | None) -> None:
            if text != last[0]:
                last[0] = text
                print(f"{time.monotonic() - start:5.1f} s  {text}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(text: str, far: float | None) -> None:
            bar.update(task, description=text, total=None if far is None else 1.0, completed=far)

        yield show


def _ended(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)
