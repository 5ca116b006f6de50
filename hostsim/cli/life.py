# SPDX-License-Identifier: Apache-2.0
"""Commands that bring a host up, flip it and take it down."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hostsim import forked
from hostsim.cli import client
from hostsim.cli.grammar import Commands, complete_with, os_names, print_answer, vm_argument
from hostsim.cli.shadows import warn_of_shadows
from hostsim.protocol import LEVELS

if TYPE_CHECKING:
    from hostsim.hostfile.source import Source
    from hostsim.model import HostSpec, RouteSpec


COMMANDS = ("check", "up", "down", "clean", "ls", "restart", "flip")


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    sub = commands.add(
        "check",
        _check,
        "what this kernel offers, what is missing, and what works without it",
        root=False,
        has_json=True,
        has_host=False,
    )
    sub.add_argument(
        "file", metavar="FILE", nargs="?", help="a host file: what it takes of this machine, too"
    )
    sub = commands.add(
        "up", _up, "build the host and return when it is ready", has_json=True, has_host=False
    )
    sub.add_argument(
        "file",
        metavar="FILE",
        help="a host file, the name of a shipped host, or - for standard input",
    )
    sub.add_argument("--foreground", action="store_true", help="stay, and log to stderr")
    sub.add_argument(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="what the host's log has, and what is worse (info)",
    )
    sub.add_argument(
        "--strict",
        action="store_true",
        help="exit status 1 if a device cannot be taken; the host is up all the same",
    )
    commands.add("down", _down, "take the host down", has_json=True, alone=True)
    commands.add(
        "clean",
        _clean,
        "remove what hosts without a living daemon, or benches that were killed, have left",
        has_host=False,
    )
    commands.add("ls", _ls, "hosts, their daemon's pid and state", has_json=True, has_host=False)
    sub = commands.add(
        "restart", _restart, "end a VM or endpoint, dead or alive, and make it anew", has_json=True
    )
    vm_argument(sub)
    sub = commands.add(
        "flip", _flip, "make an OS the foreground; returns when it has the equipment", has_json=True
    )
    complete_with(sub.add_argument("os", metavar="OS"), os_names)


def _check(arguments: argparse.Namespace) -> int:
    from hostsim.cli import check

    found = check.run()
    if arguments.file is not None:
        from hostsim.hostfile import file as hostfile

        found["needs"] = check.needs_of(hostfile.load(arguments.file))
    if arguments.json:
        print(json.dumps(found))
    else:
        check.show(found)
    return 1 if any(row["ok"] is False and row["certain"] for row in found.get("needs", ())) else 0


def _up(arguments: argparse.Namespace) -> int:
    from hostsim.hostfile.source import read

    source = read(arguments.file)
    spec = _checked(source)
    path, level = str(source.path), arguments.log_level
    if arguments.foreground:
        client.become(path, source.text, level)
    start: client.Start
    if arguments.own_process and forked.possible():
        start = partial(forked.start, spec, path, level)
    else:
        start = client.interpreter(path, source.text, level)
    with client.Starting(path, start) as starting:
        answer = starting.ready()
    if arguments.json:
        print(json.dumps(answer))
    else:
        print(f"host {answer['host']} is up (daemon {answer['pid']})")
    _note_routers(spec)
    waiting = _warn_of_devices(client.ask(answer["host"], "devices") if spec.devices else [])
    return 1 if waiting and arguments.strict else 0


def _checked(source: "Source") -> "HostSpec":
    """What the host file says, with warnings. Raises HostFileError."""
    from hostsim.hostfile.file import parse

    spec = parse(*source)
    warn_of_shadows(spec)
    _warn_of_loops(spec.uplinks)
    return spec


def _warn_of_devices(found: Sequence[dict[str, Any]]) -> int:
    """Say which devices no OS can have for now, and which it has not whole; how many of the
    first."""
    waiting = [device for device in found if device.get("why")]
    for device in waiting:
        print(
            f"hostsim: warning: {device['name']} ({device['node']}) is not taken: {device['why']}; "
            "it is tried again",
            file=sys.stderr,
        )
    for device in found:
        if device.get("lacks"):
            print(
                f"hostsim: note: {device['name']} ({device['node']}): its clones have no "
                f"{', '.join(device['lacks'])}, which uinput cannot set; a program that finds a "
                'device by it needs mode = "direct"',
                file=sys.stderr,
            )
    return len(waiting)


def _warn_of_loops(uplinks: Sequence[str]) -> None:
    """Say that the switch runs no spanning tree, if that can matter."""
    if len(uplinks) > 1:
        print(
            f"hostsim: warning: uplinks {', '.join(uplinks)}: two that lead into one network make "
            "a loop, and one broadcast a storm; the switch runs no spanning tree",
            file=sys.stderr,
        )


def _note_routers(spec: "HostSpec") -> None:
    """Say what a chain through VMs that forward by their kernel's stack changes for its packets,
    and for who watches them there."""
    functions = {vm.name for vm in spec.vms if vm.nf is not None}
    routes = [route for route in spec.routes if not functions.issuperset(route.through)]
    routers = dict.fromkeys(vm for one in routes for vm in one.through if vm not in functions)
    if not routers:
        return

    def direct(route: "RouteSpec") -> bool:
        """Whether it has a hop that can go by a direct link."""
        hops = pairwise(route.through)
        return route.bypass in ("auto", "veth") and any(functions.isdisjoint(hop) for hop in hops)

    text = f"{', '.join(routers)}: a router in its chain takes one from each packet's TTL"
    if any(direct(route) for route in routes):
        text += "; tcpdump there: -i any, since eth0 shows half of what goes by direct links"
    print(f"hostsim: note: {text}", file=sys.stderr)


def _down(arguments: argparse.Namespace) -> int:
    host = client.down(arguments.host)
    print(json.dumps({"host": host}) if arguments.json else f"host {host} is down")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    from hostsim.images import store

    cleaned = [*client.clean(), *store.sweep()]
    print(f"cleaned: {', '.join(cleaned)}" if cleaned else "nothing to clean")
    return 0


def _ls(arguments: argparse.Namespace) -> int:
    return print_answer(arguments, client.hosts(), "hosts")


def _restart(arguments: argparse.Namespace) -> int:
    done = client.ask(client.pick(arguments.host), "restart", vm=arguments.vm)
    print(json.dumps(done) if arguments.json else f"{done['vm']} is up again (pid {done['pid']})")
    return 0


def _flip(arguments: argparse.Namespace) -> int:
    done = client.ask(client.pick(arguments.host), "flip", os=arguments.os)
    if arguments.json:
        print(json.dumps(done))
    else:
        now, before = done["foreground"], done["previous"]
        print(f"{now} is the foreground, was {before} ({done['ms']:.1f} ms)")
    return 0
