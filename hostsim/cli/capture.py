# SPDX-License-Identifier: Apache-2.0
"""The command that shows packets: capture."""

import argparse
import os
import sys
from contextlib import closing

from hostsim.cli import client
from hostsim.cli.grammar import Commands, complete_with, count_of, vm_names
from hostsim.errors import HostsimError, UsageError


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    sub = commands.add("capture", _capture, "packets of every path, into one pcapng file")
    vms = sub.add_argument("vms", metavar="VM", nargs="*", help="VMs and endpoints (all)")
    complete_with(vms, vm_names)
    sub.add_argument(
        "--match",
        metavar="MATCH",
        help='of these flows: { proto = "tcp", dport = 80 }; replies too',
    )
    sub.add_argument(
        "-w", metavar="FILE", dest="file", required=True, help="where to; - is standard output"
    )
    sub.add_argument("--snap", metavar="N", type=count_of, help="bytes of a packet at most")
    sub.add_argument("--count", metavar="N", type=count_of, help="end after so many packets")


def _capture(arguments: argparse.Namespace) -> int:
    from cext.sight.records import SNAP
    from hostsim.capture import capture
    from hostsim.capture.source import Source, parse_match

    wanted = parse_match(arguments.match)
    snap = SNAP if arguments.snap is None else arguments.snap
    if arguments.file == "-" and sys.stdout.isatty():
        hint = "hostsim capture -w - | tshark -i -"
        raise UsageError("capture -w -", "standard output is a terminal", hint)
    answer = client.ask(client.pick(arguments.host), "sight")
    with closing(Source(answer, arguments.vms, wanted, snap)) as source:
        fd = 1 if arguments.file == "-" else _open(arguments.file)
        out = capture.Out(fd, arguments.file)

        def ready() -> None:
            print("hostsim: capturing; ^C ends it", file=sys.stderr, flush=True)

        written, lost = capture.run(capture.Capture(source), out, arguments.count, ready)
    print(f"hostsim: {written:,} packets captured, {lost:,} lost", file=sys.stderr)
    return 0


def _open(file: str) -> int:
    """Raises HostsimError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(file, flags, 0o600)
    except OSError as error:
        raise HostsimError(f"capture -w {file}", error.strerror or str(error)) from None
