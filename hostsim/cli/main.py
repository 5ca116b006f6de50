# SPDX-License-Identifier: Apache-2.0
# PYTHON_ARGCOMPLETE_OK
"""The command line: parses, asks through `client`, prints through `show`.

The one place where errors become a line on stderr and an exit status: 0 done, 1 the thing failed,
2 wrong usage. Heavy modules are imported by the command that needs them; and the commands of
life.py wait for no other's grammar, since a host is up so much sooner.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hostsim
from hostsim.cli import client, life
from hostsim.cli.grammar import Commands, Parser
from hostsim.errors import HostsimError, reason

EPILOG = "A host file describes a host; edge, duo, both and desk ship: hostsim up edge starts one."


def main(argv: Sequence[str] | None = None, own_process: bool = False) -> int:
    """Entry point of `hostsim`; returns the exit status.

    argv: its arguments; None: the process'
    own_process: the process does nothing else, before or after: it may have a copy of itself do
        something else (hostsim/forked.py)
    """
    words = sys.argv[1:] if argv is None else argv
    if argv is None:
        _hold_streams()
    try:
        completes = "_ARGCOMPLETE" in os.environ
        of_life = any(word in life.COMMANDS for word in words[:1])
        parser = command_line(life_only=of_life and not completes)
        if completes:
            _complete(parser)
        arguments = parser.parse_args(words)
        arguments.own_process = own_process
        if own_process and not of_life:  # those of life end soon
            gc.enable()
        run: Callable[[argparse.Namespace], int] = arguments.run
        if arguments.needs_root:
            client.need_root(arguments.command)
        status = run(arguments)
        if argv is None and of_life:
            _end(status)
        return status
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


def _end(status: int) -> NoReturn:
    """End the process, of which nothing is left to do: the interpreter takes longer to take itself
    apart, the more so while OSes that boot have the processors."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _hold_streams() -> None:
    """A standard stream that was closed when the process began is /dev/null: nothing can be said
    there, and no file or socket of this process or its children gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            held = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(held, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class _Version(argparse.Action):
    """Looks the version up only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"hostsim {hostsim.__version__}")
        parser.exit()


def command_line(life_only: bool = False) -> Parser:
    """The parser of all commands, or of those in life.py alone."""
    parser = Parser(
        prog="hostsim",
        description="One Linux machine as a communications server and a multi-OS device.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("--host", metavar="NAME", help="which host, if several are up")
    commands = Commands(parser)
    life.add(commands)
    if not life_only:
        _add_others(commands, parser)
    return parser


def _add_others(commands: Commands, parser: Parser) -> None:
    """In the order of --help."""
    from hostsim.cli import (
        capture,
        images,
        inside,
        install,
        logs,
        looks,
        ping,
        tools,
        trace,
        views,
    )

    for room in (looks, views, capture, trace, inside, logs, ping, images, tools):
        room.add(commands)
    install.add(commands, parser)


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, which asks for completions."""
    import argcomplete

    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())
