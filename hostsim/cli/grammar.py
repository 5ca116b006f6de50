# SPDX-License-Identifier: Apache-2.0
"""The grammar of the command line: what its commands have in common.

    Commands(parser).add(name, run, text, ...) -> Parser   one more command

The commands of one kind stand in a module of their own, which adds them (`add(commands)`). It
imports a heavy module only in the command that needs it. `run` gets the parsed arguments and
returns the exit status.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from hostsim.cli import client
from hostsim.errors import HostsimError, UsageError

LIST = 4
"""Spaces before a term of a list."""
_TERM = re.compile(r" {4}\S+(?: \S+)* {2,}(?=\S)")


class Parser(argparse.ArgumentParser):
    """argparse, with the project's one-line errors."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("hostsim").strip()
        raise UsageError(command or "usage", message, f"{self.prog} -h")


def sentence(text: str) -> str:
    """The help of a command as its description: names in it keep their letters."""
    return text[:1].upper() + text[1:] + "."


class Docstring(argparse.HelpFormatter):
    """Shows a description as a module's docstring has it: paragraphs, and lists of terms. Each is
    wrapped by itself to the terminal's width."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(wrapped(text, width))


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text whose paragraphs start at the left, and whose lists are indented by four:
    a term, two spaces, what it is, perhaps on further lines that are indented by more."""
    blocks: list[tuple[str, int, list[str]]] = []  # first prefix, indent of the others, words
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        term = _TERM.match(line)
        if not line.strip():
            blocks.append(("", 0, []))
        elif indent > LIST and blocks and blocks[-1][1] > 0:
            blocks[-1][2].extend(line.split())
        elif term is not None:
            blocks.append((term.group(), len(term.group()), line[term.end() :].split()))
        elif indent:
            blocks.append((line[:indent], indent + 2, line.split()))
        elif blocks and blocks[-1][1] == 0 and blocks[-1][2]:
            blocks[-1][2].extend(line.split())
        else:
            blocks.append(("", 0, line.split()))
    return [line for first, rest, words in blocks for line in _wrap(first, rest, words, width)]


def _wrap(first: str, rest: int, words: list[str], width: int) -> list[str]:
    return textwrap.wrap(
        " ".join(words),
        width,
        initial_indent=first,
        subsequent_indent=" " * rest,
        break_on_hyphens=False,
    ) or [""]


class Commands:
    """The commands of a parser."""

    def __init__(self, parser: Parser) -> None:
        self._parsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        root: bool = True,
        has_json: bool = False,
        has_host: bool = True,
        alone: bool = False,
    ) -> Parser:
        """alone: it takes no other words, so the host may be named without --host."""
        sub: Parser = self._parsers.add_parser(name, help=text, description=sentence(text))
        sub.set_defaults(run=run, command=name, needs_root=root)
        if has_host:
            sub.add_argument("--host", metavar="NAME", default=argparse.SUPPRESS, help="which host")
        if alone:
            sub.add_argument(
                "host", metavar="HOST", nargs="?", default=argparse.SUPPRESS, help="which host"
            )
        if has_json:
            sub.add_argument("--json", action="store_true", help="one JSON document, nothing else")
        return sub


def only(parser: argparse.ArgumentParser) -> None:
    """The options by which a long list is asked for in part."""
    parser.add_argument(
        "--match",
        metavar="TEXT",
        default="",
        help="whose key has this, or fits it (* ?)",
    )
    parser.add_argument("--limit", metavar="N", type=count_of, help="so many at most")


def count_of(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def complete_with(action: argparse.Action, names: Callable[..., list[str]]) -> None:
    action.completer = names  # type: ignore[attr-defined]


def vm_argument(parser: argparse.ArgumentParser) -> None:
    complete_with(parser.add_argument("vm", metavar="VM", help="a VM or an endpoint"), vm_names)


def _known(select: Callable[[dict[str, Any]], bool]) -> list[str]:
    try:
        status = client.ask(client.pick(None), "status")
    except HostsimError:
        return []
    return [node["name"] for node in (*status["vms"], *status["endpoints"]) if select(node)]


def vm_names(**_: Any) -> list[str]:
    return _known(lambda node: True)


def os_names(**_: Any) -> list[str]:
    return _known(lambda node: bool(node["os"]))


def print_answer(arguments: argparse.Namespace, what: Any, table: str) -> int:
    """Print `what`, as JSON or as the table function of `show` named `table` shows it."""
    if arguments.json:
        json.dump(what, sys.stdout)
        print()
    else:
        from hostsim.cli import show

        getattr(show, table)(what)
    return 0


def asks(op: str, table: str, *words: str) -> Callable[[argparse.Namespace], int]:
    """words: the options that the daemon is told."""

    def run(arguments: argparse.Namespace) -> int:
        told = {word: getattr(arguments, word) for word in words}
        return print_answer(arguments, client.ask(client.pick(arguments.host), op, **told), table)

    return run
