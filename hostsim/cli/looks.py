# SPDX-License-Identifier: Apache-2.0
"""Commands that show a host that is up, its policy and its books; and the command that changes the
policy."""

import argparse
import json
import sys

from hostsim.cli import client
from hostsim.cli.grammar import (
    Commands,
    asks,
    complete_with,
    only,
    print_answer,
    vm_argument,
    vm_names,
)
from hostsim.cli.shadows import warn_of_shadows
from hostsim.errors import UsageError
from hostsim.names import LINK_WORDS as WORDS

_status = asks("status", "status")
_devices = asks("devices", "devices")
_flows = asks("flows", "flows", "match", "limit")
_rules = asks("rules", "rules", "match", "limit")


def add(commands: Commands) -> None:
    """Add these commands to the command line."""
    commands.add(
        "status",
        _status,
        "VMs, endpoints, ports, foreground OS and devices of the host",
        has_json=True,
        alone=True,
    )
    commands.add(
        "devices", _devices, "the equipment: owner, mode, saved states", has_json=True, alone=True
    )
    sub = commands.add("routes", _routes, "the policy in force, or `apply FILE`", has_json=True)
    sub.add_argument("verb", metavar="apply", nargs="?", choices=("apply",), help="replace it by")
    sub.add_argument("file", metavar="FILE", nargs="?", help="a host file, or -")
    sub = commands.add(
        "apply",
        _routes,
        "have the VMs, links and routes of a host file, while the rest runs",
        has_json=True,
    )
    sub.set_defaults(verb="apply")
    sub.add_argument("file", metavar="FILE", help="a host file, or -")
    sub.add_argument("--dry-run", action="store_true", help="only say what it would do")
    sub = commands.add("link", _link, "impaired links, or impair one: loss, delay", has_json=True)
    complete_with(
        sub.add_argument("vm", metavar="VM", nargs="?", help="whose link; all, if none is named"),
        vm_names,
    )
    sub.add_argument(
        "words",
        metavar="KEY=VALUE",
        nargs="*",
        help=f"of: {', '.join(WORDS)}; what is not named is as in a link that nothing impairs",
    )
    sub.add_argument("--clear", action="store_true", help="impair it no longer")
    sub.add_argument(
        "--direction",
        choices=("both", "in", "out"),
        default="both",
        help="in: what the switch sends to the VM",
    )
    sub = commands.add(
        "flows", _flows, "flows: route, path of each hop, and why", has_json=True, alone=True
    )
    only(sub)
    sub = commands.add(
        "explain", _explain, "what would happen to a flow at a VM, and why", has_json=True
    )
    vm_argument(sub)
    sub.add_argument("flow", metavar="FLOW", help="tcp:198.18.0.10:40000>198.18.0.20:80")
    sub = commands.add(
        "verify", _verify, "hold what VMs sent against what carried it", has_json=True, alone=True
    )
    only(sub)
    sub = commands.add(
        "rules", _rules, "routing rules that transfer components hold", has_json=True, alone=True
    )
    only(sub)


def _link(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    if arguments.vm is None:
        return print_answer(arguments, client.ask(host, "links"), "links")
    if arguments.clear == bool(arguments.words):
        raise UsageError(
            "link", "neither KEY=VALUE nor --clear, or both", "hostsim link VM loss=1%"
        )
    rows = client.ask(
        host, "link", of=arguments.vm, direction=arguments.direction, words=arguments.words
    )
    return print_answer(arguments, [row for row in rows if row["vm"] == arguments.vm], "links")


def _routes(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    if arguments.verb is None:
        return print_answer(arguments, client.ask(host, "routes"), "routes")
    if arguments.file is None:
        raise UsageError("routes apply", "no file", "hostsim routes apply FILE")
    from hostsim.hostfile import file as hostfile
    from hostsim.hostfile.source import read

    source = read(arguments.file)
    warn_of_shadows(hostfile.parse(*source))  # a wrong file is refused here
    dry = bool(getattr(arguments, "dry_run", False))
    done = client.ask(host, "apply", file=str(source.path), text=source.text, dry_run=dry)
    if done["ignored"]:
        print(
            f"hostsim: warning: not applied, since only `up` does: {', '.join(done['ignored'])}",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(done))
    else:
        if not dry:
            print(f"{done['routes']} routes in force (epoch {done['epoch']})")
        for line in done["changes"] or ["nothing changes"]:
            print(line)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    return print_answer(
        arguments, client.ask(host, "explain", vm=arguments.vm, flow=arguments.flow), "explanation"
    )


def _verify(arguments: argparse.Namespace) -> int:
    rows = client.ask(
        client.pick(arguments.host), "verify", match=arguments.match, limit=arguments.limit
    )
    print_answer(arguments, rows, "conservation")
    return 1 if any(row["missing"] for row in rows) else 0
