# SPDX-License-Identifier: Apache-2.0
"""No frame passes a port unjudged while a host comes up: ports come with the classifier, and a
policy is in force before there is one. What sends meanwhile is a booted OS, or the network behind
an uplink; here the test does, right after the ports were made."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cext.bench.stream import listener
from cext.ns.netns import socket_at
from help.cli import plugged_nic
from help.net import ENDS_V4, made
from help.waiting import until
from hostsim.switch import Switch

pytestmark = pytest.mark.root

SERVER = "198.18.0.20"
CLOSED, OPEN = 9, 10
FILTER = f'[[filter]]\nmatch = {{ proto = "udp", dport = {CLOSED} }}\n'
CHAIN = f"""[[vm]]
name = "fw"
address = "198.18.0.1/24"
[[route]]
match = {{ proto = "udp", dport = {CLOSED} }}
through = ["fw"]
"""


def sent(near: int, far: int) -> None:
    """What is sent in namespace `near` to the closed port does not come to that of the server, what
    is sent after it to the open one does. (fw, in the chain, does not forward yet.)"""
    with (
        listener(far, CLOSED) as closed,
        listener(far, OPEN) as opened,
        socket_at(near, socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        opened.setblocking(False)
        closed.setblocking(False)

        def arrives() -> bool:
            client.sendto(b"closed", (SERVER, CLOSED))
            client.sendto(b"open", (SERVER, OPEN))
            try:
                return opened.recv(16) == b"open"
            except BlockingIOError:
                return False

        until(arrives)
        with pytest.raises(BlockingIOError):
            closed.recv(16)


def after(
    monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[Switch], None]
) -> list[Switch]:
    """Have this done each time that a method of the switch has been called; with which switch it
    was."""
    method, calls = getattr(Switch, name), list[Switch]()

    def both(self: Switch, *arguments: Any, **words: Any) -> None:
        method(self, *arguments, **words)
        then(self)
        calls.append(self)

    monkeypatch.setattr(Switch, name, both)
    return calls


def sent_from(name: str, switch: Switch) -> None:
    """`sent`, from a namespace to the server of the switch's host."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    with contextlib.ExitStack() as closing:
        near = os.open(f"/run/netns/{name}", flags)
        closing.callback(os.close, near)
        far = os.open(f"/run/netns/hs-{switch.host}-server", flags)
        closing.callback(os.close, far)
        sent(near, far)


@pytest.mark.parametrize("policy", [FILTER, CHAIN], ids=["filter", "chain"])
def test_what_a_vm_sends(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def then(switch: Switch) -> None:
        sent_from(f"hs-{switch.host}-client", switch)

    calls = after(monkeypatch, "connect", then)
    with made("hsbefore", ENDS_V4 + policy, tmp_path):
        assert len(calls) == 1


def test_what_comes_in_by_an_uplink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = "hsbeforeout"

    def then(switch: Switch) -> None:
        sent_from(outside, switch)

    calls = after(monkeypatch, "attach", then)
    text = f'[switch]\nuplinks = ["hsbf0"]\n{ENDS_V4}{FILTER}'
    with (
        plugged_nic("hsbf0", "hsbf1", outside, "198.18.0.90/24", keep=True),
        made("hsbefore", text, tmp_path),
    ):
        assert len(calls) == 1
