# SPDX-License-Identifier: Apache-2.0
"""The commands that look at a host again and again: metrics, graph, top."""

import argparse
import math
import sys
import threading
from functools import partial

from hostsim.cli import client
from hostsim.cli.grammar import Commands
from hostsim.errors import HostsimError

LISTEN = "127.0.0.1:9465"


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    sub = commands.add(
        "metrics", _metrics, "the status as Prometheus text, or served to Prometheus"
    )
    sub.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        nargs="?",
        const=LISTEN,
        help=f"serve /metrics until SIGINT or SIGTERM (without a value: {LISTEN})",
    )
    sub = commands.add(
        "graph", _graph, "a picture: VMs, switch, chains, paths with packets/s, devices"
    )
    sub.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default="-",
        help=".svg, .dot (graphviz) or .mmd (mermaid); - (the default): SVG on standard output",
    )
    sub.add_argument(
        "--seconds",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="that rates are measured for (1)",
    )
    commands.add("top", _top, "flows, ports, rings, drops and equipment, live", alone=True)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 to 3600")
    return value


def _metrics(arguments: argparse.Namespace) -> int:
    from hostsim.views import exporter

    listen = None if arguments.listen is None else exporter.parse_address(arguments.listen)
    host = client.pick(arguments.host)
    ask = partial(client.ask, host, "status")
    if listen is None:
        sys.stdout.write(exporter.text(host, ask))
    else:
        exporter.serve(host, ask, listen, partial(print, flush=True))
    return 0


def _graph(arguments: argparse.Namespace) -> int:
    from hostsim.views import draw, picture

    way = draw.way(arguments.output)
    host = client.pick(arguments.host)
    was, before = client.ask(host, "status"), client.ask(host, "flows")
    threading.Event().wait(arguments.seconds)
    status, after = client.ask(host, "status"), client.ask(host, "flows")
    shown = picture.picture(was, status, before, after, arguments.seconds)
    try:
        draw.write(way(shown), arguments.output)
    except OSError as error:
        raise HostsimError(f"graph -o {arguments.output}", error.strerror or str(error)) from None
    return 0


def _top(arguments: argparse.Namespace) -> int:
    from hostsim.views import screen

    screen.run(partial(client.ask, client.pick(arguments.host)))
    return 0
