# SPDX-License-Identifier: Apache-2.0
# PYTHON_ARGCOMPLETE_OK
"""The command line: parses, asks through `client`, prints through `show`.

The one place where errors become a line on stderr and an exit status: 0 done, 1 the thing failed,
2 wrong usage. Heavy modules are imported by the command that needs them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hostsim
from hostsim.cli import (
    capture,
    client,
    images,
    inside,
    install,
    life,
    logs,
    looks,
    ping,
    tools,
    trace,
    views,
)
from hostsim.cli.grammar import Commands, Parser
from hostsim.errors import HostsimError, reason

EPILOG = "A host file describes a host; edge, duo, both and desk ship: hostsim up edge starts one."
ROOMS = (life, looks, views, capture, trace, inside, logs, ping, images, tools)
"""Each adds its commands; in the order of --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `hostsim`; returns the exit status."""
    try:
        parser = command_line()
        _complete(parser)
        arguments = parser.parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        if arguments.needs_root:
            client.need_root(arguments.command)
        return run(arguments)
    except HostsimError as error:
        print(f"hostsim: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        print(f"hostsim: {reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class _Version(argparse.Action):
    """Looks the version up only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"hostsim {hostsim.__version__}")
        parser.exit()


def command_line() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="hostsim",
        description="One Linux machine as a communications server and a multi-OS device.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("--host", metavar="NAME", help="which host, if several are up")
    commands = Commands(parser)
    for room in ROOMS:
        room.add(commands)
    install.add(commands, parser)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell if it asks for completions; does nothing otherwise."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())
