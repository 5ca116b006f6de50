# SPDX-License-Identifier: Apache-2.0
"""`hostsim trace FLOW`: one packet's way, hop by hop, with times."""

import argparse
import json
import signal
import sys
import time
from contextlib import closing

from hostsim.cli import client
from hostsim.cli.grammar import Commands
from hostsim.errors import HostsimError

FOLLOWED = 1.0
"""Seconds that a packet is followed, unless one says otherwise."""
WAIT = 100
"""Milliseconds that packets are waited for at a time."""


def add(commands: Commands) -> None:
    """Add this command to the command line."""
    text = "one packet's way, hop by hop, with times: the next one of a flow"
    sub = commands.add("trace", _trace, text, has_json=True)
    sub.add_argument("flow", metavar="FLOW", help="its key, or a pattern of keys (* ?)")
    sub.add_argument(
        "--within",
        metavar="SECONDS",
        type=_seconds,
        help="end if no packet comes so long (it waits until ^C)",
    )
    sub.add_argument(
        "--follow",
        metavar="SECONDS",
        type=_seconds,
        default=FOLLOWED,
        help=f"how long the packet is followed ({FOLLOWED:g})",
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time")
    return found


def _trace(arguments: argparse.Namespace) -> int:
    from hostsim.capture import trace
    from hostsim.capture.source import Source

    wanted = trace.wanted(arguments.flow)
    answer = client.ask(client.pick(arguments.host), "sight")
    # A shell starts a background job with SIGINT ignored: it has to end it all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with closing(Source(answer, wanted=wanted)) as source:
        ways = trace.Ways(time.time_ns())
        print("hostsim: waiting for a packet; ^C ends it", file=sys.stderr, flush=True)
        begun = time.monotonic()
        until = begun + arguments.within if arguments.within is not None else None
        while not ways.first():
            if until is not None and time.monotonic() > until:
                why = f"no packet within {arguments.within:g} s"
                hint = "hostsim flows shows those that the host knows"
                raise HostsimError(f"flow {arguments.flow}", why, hint)
            ways.add(source.take(WAIT))
        until = time.monotonic() + arguments.follow
        while time.monotonic() < until:
            ways.add(source.take(WAIT))
        source.detach()
        ways.add(source.take(0))
        way, lost = ways.first(), source.lost()
    if arguments.json:
        print(json.dumps(trace.rows(way)))
    else:
        print("\n".join(trace.lines(way)))
    if lost:
        print(
            f"hostsim: {lost:,} packets were not kept up with; hops may be missing", file=sys.stderr
        )
    return 0
