# SPDX-License-Identifier: Apache-2.0
"""Commands that run something in a VM or endpoint."""

import argparse
import os

from hostsim.cli import client
from hostsim.cli.grammar import Commands, vm_argument
from hostsim.errors import UsageError


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    sub = commands.add(
        "exec", _exec, "run a command in a VM or endpoint; its exit status is passed on"
    )
    vm_argument(sub)
    sub.add_argument("argv", metavar="-- CMD", nargs=argparse.REMAINDER, help="command, arguments")
    sub = commands.add("shell", _shell, "an interactive shell in a VM or endpoint")
    vm_argument(sub)


def _exec(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise UsageError("exec", "no command", "hostsim exec VM -- CMD [ARG ...]")
    return client.enter(client.pick(arguments.host), arguments.vm, argv)


def _shell(arguments: argparse.Namespace) -> int:
    shell = os.environ.get("SHELL", "/bin/sh")
    return client.enter(client.pick(arguments.host), arguments.vm, [shell])
