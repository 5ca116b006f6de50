# SPDX-License-Identifier: Apache-2.0
"""A Net with packet network functions, without a daemon: what their tests run on."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from help.net import Net
from help.programs import program
from hostsim.bench.chain import counts_of
from hostsim.nf.functions import Functions

SIZE = 14 + 20 + 8 + 80
"""Bytes of a frame that `Chain.send` sends."""


def vm(name: str, nf: str = "forward") -> str:
    """A [[vm]]."""
    return f'[[vm]]\nname = "{name}"\nnf = "{nf}"\n'


def route(match: str, through: str, more: str = "") -> str:
    """A [[route]]; through: names with blanks between."""
    names = ", ".join(f'"{name}"' for name in through.split())
    return f"[[route]]\nmatch = {{ {match} }}\nthrough = [{names}]\n{more}\n"


class Chain:
    """A Net with its network functions."""

    def __init__(self, net: Net, functions: Functions) -> None:
        self.net = net
        self.functions = functions

    def start(self) -> None:
        self.functions.start()

    def sync(self) -> None:
        """What the daemon does some ten times a second."""
        self.functions.sync()

    def send(self, port: int, count: int) -> None:
        """Datagrams of one flow, from the client to the server."""
        self.net.run("client", *program("udp", "send", "198.18.0.20", port, count, 4000, 80))

    def counter(self, vm: str, name: str) -> int:
        return counts_of(self.functions)[vm][name]

    def row(self, vm: str, key: str = "udp:198.18.0.10:4000>") -> dict[str, Any]:
        """The row of `verify` for a flow in a VM."""
        (found,) = [
            one
            for one in self.net.dataplane.report.verify()
            if one["vm"] == vm and one["key"].startswith(key)
        ]
        return found


@contextlib.contextmanager
def chained(text: str, folder: Path, *, start: bool = True) -> Iterator[Chain]:
    """A host of this text, with its functions running. start: else, the test starts them."""
    net = Net(f"nf{os.getpid()}", text, folder)
    with contextlib.closing(net):
        functions = net.parts.functions(folder, net.closing)
        chain = Chain(net, functions)
        if start:
            chain.start()
        yield chain
