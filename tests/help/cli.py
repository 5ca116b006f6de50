"""What the kernel tests share: the command line as a user calls it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOSTSIM = str(Path(sys.executable).with_name("hostsim"))

Done = subprocess.CompletedProcess[str]


def run(*words: str, check: bool = True, timeout: float = 30) -> Done:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    if check:
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done


def hostsim(*words: str, check: bool = True) -> Done:
    return run(HOSTSIM, *words, check=check, timeout=90)


def ask(*words: str) -> Any:
    return json.loads(hostsim(*words, "--json").stdout)


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
