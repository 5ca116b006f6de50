# SPDX-License-Identifier: Apache-2.0
"""The command that puts man pages, completion and the systemd unit where they are found.

All of it is made from the command line's own texts, so that none of it is behind them.
"""

import argparse
import sys
from pathlib import Path

from hostsim.cli.grammar import Commands, Parser
from hostsim.errors import HostsimError

PROGRAMS = ("hostsim", "hostsim-agent")
MODE = 0o644
COMPLETIONS = {
    "bash": ("share/bash-completion/completions", "{}"),
    "zsh": ("share/zsh/site-functions", "_{}"),
    "fish": ("share/fish/vendor_completions.d", "{}.fish"),
}
"""Folder and file's name for each shell, below a prefix."""


def add(commands: Commands, whole: Parser) -> None:
    """Add the command. whole: the parser that its pages are about."""

    def run(arguments: argparse.Namespace) -> int:
        return _install(Path(arguments.prefix), whole)

    sub = commands.add(
        "install",
        run,
        "write man pages, shell completion and the systemd unit below a folder",
        root=False,
        has_host=False,
    )
    sub.add_argument(
        "prefix",
        metavar="PREFIX",
        help="such as /usr/local, where man, the shells and systemd look without being told",
    )


def files(whole: Parser, command: str) -> dict[str, str]:
    """What is written, by its path below the prefix. command: the path of hostsim."""
    from argcomplete.shell_integration import shellcode

    from hostsim import service
    from hostsim.cli import manpages
    from hostsim.cli.tools import BENCHES, bench_parser

    pages = manpages.pages(whole)
    for name in BENCHES:
        pages |= manpages.pages(bench_parser(name)[1])
    found = {f"share/man/man1/{name}": text for name, text in pages.items()}
    for shell, (folder, name) in COMPLETIONS.items():
        for program in PROGRAMS:
            found[f"{folder}/{name.format(program)}"] = shellcode([program], shell=shell)
    found[f"lib/systemd/system/{service.NAME}"] = service.unit(command)
    return found


def _install(prefix: Path, whole: Parser) -> int:
    command = str(Path(sys.executable).with_name("hostsim"))
    made = files(whole, command)
    path = prefix
    try:
        for name, text in made.items():
            path = prefix / name
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_name(f".{path.name}.new")
            half.write_text(text, encoding="utf-8")
            half.chmod(MODE)
            half.replace(path)
    except OSError as error:
        raise HostsimError(f"install {prefix}", f"{path}: {error.strerror}") from None
    print(f"{len(made)} files below {prefix}")
    return 0
