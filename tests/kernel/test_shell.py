# SPDX-License-Identifier: Apache-2.0
"""`hostsim shell`: an interactive shell in a VM or endpoint, at the terminal of whoever asks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from help import cli
from help.cli import HOSTSIM
from help.net import endpoint
from help.terminal import Terminal

pytestmark = pytest.mark.root

FILE = '[host]\nname = "hssh"\n[[vm]]\nname = "box"\n' + endpoint("out", "198.18.97.2/24")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with cli.host(FILE, tmp_path) as state:
        yield state


@pytest.mark.parametrize("where", ["box", "out"])
def test_a_shell_with_a_terminal_in_there(host: Path, where: str) -> None:
    shell = Terminal([HOSTSIM, "shell", where], SHELL="/bin/sh", ENV="")
    try:
        shell.expect("$ ")
        shell.type("tty -s && echo at$((40 + 2)) && hostname\n")
        assert shell.expect(f"at42\r\n{where}\r\n").count("$((40 + 2))") == 1
        shell.expect("$ ")
        # Said by a program of its own, which has the terminal by then.
        shell.type("sh -c 'ip -o link show eth0 >&2 && echo net$((1 + 1)); exec sleep 60'\n")
        shell.expect("net2\r\n")
        shell.type("\x03")  # ends the sleep, and not the shell
        shell.expect("$ ")
        shell.type("exit 7\n")
        assert shell.wait() == 7
    finally:
        shell.close()


def test_it_is_the_callers_own_shell(host: Path, tmp_path: Path) -> None:
    """By its path, which the VM has too; without $SHELL it is /bin/sh."""
    mine = tmp_path / "mine"
    mine.write_text("#!/bin/sh\necho mine in $(hostname)\nexit 3\n")
    mine.chmod(0o755)
    shell = Terminal([HOSTSIM, "--host", "hssh", "shell", "box"], SHELL=str(mine))
    try:
        shell.expect("mine in box\r\n")
        assert shell.wait() == 3
    finally:
        shell.close()
    plain = Terminal(["/usr/bin/env", "-u", "SHELL", HOSTSIM, "shell", "box"])
    try:
        plain.expect("$ ")
        plain.type("readlink /proc/$$/exe\n")
        plain.expect(f"{Path('/bin/sh').resolve()}\r\n")
        plain.type("exit\n")
        assert plain.wait() == 0
    finally:
        plain.close()


@pytest.mark.parametrize(
    ("where", "shell", "status", "said"),
    [("nowhere", "/bin/sh", 1, "nowhere"), ("box", "/no/such", 127, "/no/such")],
)
def test_a_shell_there_is_not(host: Path, where: str, shell: str, status: int, said: str) -> None:
    terminal = Terminal([HOSTSIM, "shell", where], SHELL=shell)
    try:
        assert terminal.wait() == status
        (line,) = terminal.seen.splitlines()
        assert line.startswith("hostsim: ")
        assert said in line
    finally:
        terminal.close()
