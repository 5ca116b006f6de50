# SPDX-License-Identifier: Apache-2.0
"""Commands that need no host: benches, the schema of the host file, what a network
function in C is built with, completion."""

import argparse
import importlib
import json
import os
import signal
import sys
from typing import Any

from hostsim.cli.grammar import Commands, Docstring, Parser, print_answer
from hostsim.errors import HostsimError, UsageError, reason

BENCHES = ("ring", "path", "chain", "flows", "capture", "loop", "flip", "input", "up", "boot")


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    sub = commands.add(
        "bench",
        _bench,
        "measure, against a peer if one is installed",
        has_json=True,
        has_host=False,
    )
    sub.add_argument(
        "--html",
        metavar="FILE",
        help="before NAME: a page of these benches, all if none is named (NAME,...)",
    )
    sub.add_argument("name", metavar="NAME", nargs="?", type=_benches, help=", ".join(BENCHES))
    sub.add_argument(
        "options", nargs=argparse.REMAINDER, help="of this bench: hostsim bench NAME -h"
    )
    sub = commands.add(
        "nf", _nf, "how to build a network function in C", root=False, has_host=False
    )
    sub.add_argument(
        "--cflags", action="store_true", required=True, help="what the compiler needs, on one line"
    )
    sub = commands.add(
        "new-test",
        _new_test,
        "write a test with pytest that passes, to begin with",
        root=False,
        has_host=False,
    )
    sub.add_argument("file", metavar="FILE", help="test_NAME.py; it must not be there yet")
    commands.add(
        "schema",
        _schema,
        "print the JSON schema of the host file, for editors",
        root=False,
        has_host=False,
    )
    sub = commands.add(
        "completion", _completion, "print shell completion code", root=False, has_host=False
    )
    sub.add_argument("shell", choices=("bash", "zsh", "fish"))


def _benches(text: str) -> str:
    if unknown := [name for name in text.split(",") if name not in BENCHES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(BENCHES)}")
    return text


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.html is not None:
        names = arguments.name.split(",") if arguments.name else BENCHES
        together = importlib.import_module("hostsim.bench.together")
        return int(together.run(names, arguments.options, arguments.html))
    if arguments.name not in BENCHES:
        raise UsageError("bench", "one NAME, or several with --html FILE", "hostsim bench -h")
    module, parser = bench_parser(arguments.name)
    parser.set_defaults(json=arguments.json)
    options = parser.parse_args(arguments.options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_bench)
    try:
        found = module.run(options)
    except SystemExit as ended:
        # Where the signal came while a thread was being started, nobody knows that thread, and the
        # interpreter would wait for it for ever.
        os._exit(int(str(ended.code)))
    return print_answer(options, found, "bench")


def bench_parser(name: str) -> tuple[Any, Parser]:
    """A bench's module, and the parser of its options. Raises HostsimError."""
    try:
        module = importlib.import_module(f"hostsim.bench.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"hostsim.bench.{name}":
            raise
        raise HostsimError(f"bench {name}", "is not part of this version") from None
    parser = Parser(
        prog=f"hostsim bench {name}", description=module.__doc__, formatter_class=Docstring
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, nothing else")
    module.add_arguments(parser)
    return module, parser


def _end_bench(number: int, frame: object) -> None:
    """Ended from outside, a bench takes down what it made: sys.exit runs its finally clauses, and
    no second signal disturbs them."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def _nf(arguments: argparse.Namespace) -> int:
    from cext import INCLUDE

    print(f"-I{INCLUDE}")
    return 0


def _new_test(arguments: argparse.Namespace) -> int:
    from hostsim.cli.newtest import TEXT

    try:
        with open(arguments.file, "x", encoding="utf-8") as file:
            file.write(TEXT)
    except FileExistsError:
        raise HostsimError(arguments.file, "is there already", "choose another name") from None
    except OSError as error:
        raise HostsimError(arguments.file, reason(error), "its folder must be there") from None
    print(f"as root: pytest {arguments.file}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from hostsim.hostfile.schema import schema

    json.dump(schema(), sys.stdout, indent=2)
    print()
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["hostsim", "hostsim-agent"], shell=arguments.shell))
    return 0
