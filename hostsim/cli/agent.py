# SPDX-License-Identifier: Apache-2.0
"""hostsim-agent: the OS selection agent, inside an OS.

    hostsim-agent flip OS | next | status | watch

It speaks `wire` over /run/hostsim/agent.sock, of which each OS has its own. Starts quickly: it
imports little. The agent that answers the KMC for its OS is another program (cext/input/agent.c),
which the daemon starts.
"""

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from hostsim.errors import HostsimError
from hostsim.kmc import wire
from hostsim.kmc.wire import Message, Type

USAGE = """\
usage: hostsim-agent [-h] COMMAND ...

Choose which operating system of this machine is in the foreground (has the keyboard, the mouse
and what else is shared). To be used inside one of them.

  flip OS           make OS the foreground; returns when it has the equipment
  next              the same for the next OS in order
  status [--json]   which OS is foreground, and which one this is
  watch [--json]    print what happens, until interrupted

Exit status: 0 done, 1 it failed or was refused, 2 wrong usage.
"""


class Link:
    """A connection to the KMC. Raises HostsimError if there is none, or it ends."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(wire.PATH)
        except OSError as error:
            raise HostsimError(
                wire.PATH,
                error.strerror or str(error),
                "hostsim-agent works inside an OS of a running host (hostsim exec OS -- ...)",
            ) from None

    def send(self, message: Message) -> None:
        """Send one message."""
        try:
            self._socket.send(wire.encode(message))
        except OSError as error:
            raise HostsimError("the KMC", error.strerror or str(error)) from None

    def receive(self) -> Message:
        """Wait for one message."""
        try:
            data = self._socket.recv(wire.SIZE_MAX + 1)
        except OSError as error:
            raise HostsimError("the KMC", error.strerror or str(error)) from None
        if not data:
            raise HostsimError("the KMC", "ended the connection")
        return wire.decode(data)

    def ask(self, kind: Type, body: str = "") -> dict[str, Any]:
        """Send a request and wait for its answer. Raises HostsimError with what it says."""
        self.send(Message(kind, 1, body))
        while (answer := self.receive()).sequence != 1:
            pass
        if answer.type is Type.ERROR:
            raise HostsimError(*wire.error_parts(answer))
        document: dict[str, Any] = json.loads(answer.body)
        return document


def flip(kind: Type, name: str = "") -> None:
    """Ask for a flip and say how it went."""
    done = Link().ask(kind, name)
    print(f"{done['foreground']} is foreground after {done['previous']}, {done['ms']} ms")


def status(as_json: bool) -> None:
    """Print who is foreground."""
    found = Link().ask(Type.STATUS)
    if as_json:
        print(json.dumps(found))
    else:
        print(f"this is {found['os']} ({found['state']}); foreground: {found['foreground']}")


def watch(as_json: bool) -> None:
    """Print events until the KMC ends."""
    link = Link()
    link.ask(Type.WATCH)
    while True:
        message = link.receive()
        if message.type is not Type.EVENT:
            continue
        event = json.loads(message.body)
        text = f"{event['os']} is foreground after {event['previous']}, asked by {event['by']}"
        print(message.body if as_json else text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        print(USAGE, end="")
        return 0
    as_json = "--json" in words[1:]
    command, rest = words[:1], [word for word in words[1:] if word != "--json"]
    try:
        match command, rest:
            case ["flip"], [name]:
                flip(Type.FLIP, name)
            case ["next"], []:
                flip(Type.NEXT)
            case ["status"], []:
                status(as_json)
            case ["watch"], []:
                watch(as_json)
            case _:
                print(USAGE, end="", file=sys.stderr)
                return 2
    except HostsimError as error:
        print(f"hostsim-agent: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
