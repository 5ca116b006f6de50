# SPDX-License-Identifier: Apache-2.0
"""The command line as a user calls it, hosts that are up for a while, and a NIC of the machine."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from help.tails import tails
from help.waiting import until
from hostsim.cli.main import main

HOSTSIM = str(Path(sys.executable).with_name("hostsim"))

STATE = Path("/run/hostsim")

Done = subprocess.CompletedProcess[str]


def run(*words: str, check: bool = True, timeout: float = 60) -> Done:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if check:
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done


def hostsim(*words: str, check: bool = True) -> Done:
    return run(HOSTSIM, *words, check=check, timeout=240)


OF_THEIR_OWN = ("bench", "check")
"""Commands that change the process that they run in: its handlers of signals, its modules."""


def ask(*words: str) -> Any:
    """What a command answers with --json. It is the command line, but in this process: a start of
    Python is a second in the test VM, and tests ask again and again."""
    if words[0] in OF_THEIR_OWN:
        return json.loads(hostsim(*words, "--json").stdout)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main((*words, "--json"))
    assert status == 0, (words, out.getvalue())
    return json.loads(out.getvalue())


@contextlib.contextmanager
def up(file: str | Path) -> Iterator[Path]:
    """A host is up, and down at the end; the directory that its daemon keeps (`log`). If the block
    fails, the ends of its logs are written before it goes.

    file: a host file named as its host is, or the name of a host that ships
    """
    name = Path(file).stem
    hostsim("up", str(file))
    try:
        yield STATE / name
    except BaseException:
        print(tails(STATE / name))
        raise
    finally:
        hostsim("--host", name, "down")


@contextlib.contextmanager
def host(text: str, folder: Path) -> Iterator[Path]:
    """`up`, of the text of a host file, which is written into the folder."""
    file = folder / f"{tomllib.loads(text)['host']['name']}.toml"
    file.write_text(text)
    with up(file) as state:
        yield state


def kill_daemon(name: str) -> None:
    """kill -9 of a host's daemon; returns once it is gone."""
    daemon = next(one["pid"] for one in ask("ls") if one["host"] == name)
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{daemon}").exists(), 60)


@contextlib.contextmanager
def plugged_nic(nic: str, far: str, outside: str, address: str, *, keep: bool) -> Iterator[None]:
    """A NIC of the machine, up, MTU 1400; its other end, `far`, has `address` in the namespace
    `outside`, a device on the network. keep: the NIC has to be there at the end."""
    run("ip", "netns", "add", outside)
    try:
        run("ip", "link", "add", nic, "mtu", "1400", "type", "veth", "peer", "name", far)
        try:
            run("ip", "link", "set", far, "netns", outside)
            run("ip", "-n", outside, "addr", "add", address, "dev", far)
            run("ip", "-n", outside, "link", "set", far, "up")
            run("ip", "link", "set", nic, "up")
            yield
        finally:
            run("ip", "link", "del", nic, check=keep)
    finally:
        run("ip", "netns", "del", outside)
