# PYTHON_ARGCOMPLETE_OK
"""The command line: parses, asks through `client`, prints through `show`.

The one place where errors become a line on stderr and an exit status: 0 done, 1 the thing failed,
2 wrong usage. Heavy modules are imported by the command that needs them.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hostsim
from hostsim.cli import client
from hostsim.errors import HostsimError, UsageError

SHADOWS = 10
"""Most routes without a match that are named one by one."""

BENCHES = ("ring", "path", "chain", "flows", "loop", "flip", "input", "up")
EPILOG = "A host file describes a host; edge, duo and both ship: hostsim up edge starts one."


class _Parser(argparse.ArgumentParser):
    """argparse, with the project's one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(self.prog.removeprefix("hostsim ") or "usage", message, f"{self.prog} -h")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `hostsim`; returns the exit status."""
    try:
        parser = _parser()
        _complete(parser)
        arguments = parser.parse_args(argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        if arguments.needs_root:
            client.need_root(arguments.command)
        return run(arguments)
    except HostsimError as error:
        print(f"hostsim: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        print(f"hostsim: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> _Parser:
    parser = _Parser(
        prog="hostsim",
        description="One Linux machine as a communications server and a multi-OS device.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"hostsim {hostsim.__version__}")
    parser.add_argument("--host", metavar="NAME", help="which host, where several are up")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        root: bool = True,
        has_json: bool = False,
        has_host: bool = True,
        alone: bool = False,
    ) -> _Parser:
        """alone: it takes no other words, so the host may be named without --host."""
        sub: _Parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        sub.set_defaults(run=run, command=name, needs_root=root)
        if has_host:
            sub.add_argument("--host", metavar="NAME", default=argparse.SUPPRESS, help="which host")
        if alone:
            sub.add_argument(
                "host", metavar="HOST", nargs="?", default=argparse.SUPPRESS, help="which host"
            )
        if has_json:
            sub.add_argument("--json", action="store_true", help="one JSON document, nothing else")
        return sub

    sub = command(
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
    sub = command("up", _up, "build the host and return when it is ready", has_host=False)
    sub.add_argument(
        "file",
        metavar="FILE",
        help="a host file, the name of a shipped host, or - for standard input",
    )
    sub.add_argument("--foreground", action="store_true", help="stay, and log to stderr")
    sub.add_argument(
        "--strict",
        action="store_true",
        help="exit status 1 if a device cannot be taken; the host is up all the same",
    )
    command("down", _down, "take the host down", alone=True)
    command(
        "clean",
        _clean,
        "remove what hosts without a living daemon, or benches that were killed, have left",
        has_host=False,
    )
    command("ls", _ls, "hosts, their daemon's pid and state", has_json=True, has_host=False)
    command(
        "status",
        _status,
        "VMs, endpoints, ports, foreground OS and devices of the host",
        has_json=True,
        alone=True,
    )
    sub = command("exec", _exec, "run a command in a VM or endpoint; its exit status is passed on")
    _vm_argument(sub)
    sub.add_argument("argv", metavar="-- CMD", nargs=argparse.REMAINDER, help="command, arguments")
    sub = command("shell", _shell, "an interactive shell in a VM or endpoint")
    _vm_argument(sub)
    sub = command("flip", _flip, "make an OS the foreground; returns when it has the equipment")
    _complete_with(sub.add_argument("os", metavar="OS"), _os_names)
    command(
        "devices", _devices, "the equipment: owner, mode, saved states", has_json=True, alone=True
    )
    sub = command("routes", _routes, "the policy in force, or `apply FILE`", has_json=True)
    sub.add_argument("verb", metavar="apply", nargs="?", choices=("apply",), help="replace it by")
    sub.add_argument("file", metavar="FILE", nargs="?", help="a host file of the same VMs, or -")
    sub = command(
        "flows", _flows, "flows: route, path of each hop, and why", has_json=True, alone=True
    )
    _only(sub)
    sub = command(
        "explain", _explain, "what would happen to a flow at a VM, and why", has_json=True
    )
    _vm_argument(sub)
    sub.add_argument("flow", metavar="FLOW", help="tcp:198.18.0.10:40000>198.18.0.20:80")
    command(
        "verify", _verify, "hold what VMs sent against what carried it", has_json=True, alone=True
    )
    sub = command(
        "rules", _rules, "routing rules that transfer components hold", has_json=True, alone=True
    )
    _only(sub)
    sub = command(
        "bench",
        _bench,
        "measure, against a peer where one is installed",
        has_json=True,
        has_host=False,
    )
    sub.add_argument("name", metavar="NAME", choices=BENCHES, help=", ".join(BENCHES))
    sub.add_argument(
        "options", nargs=argparse.REMAINDER, help="of this bench: hostsim bench NAME -h"
    )
    sub = command("nf", _nf, "how to build a network function in C", root=False, has_host=False)
    sub.add_argument(
        "--cflags", action="store_true", required=True, help="what the compiler needs, on one line"
    )
    sub = command(
        "completion", _completion, "print shell completion code", root=False, has_host=False
    )
    sub.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _only(parser: argparse.ArgumentParser) -> None:
    """The options by which a long list is asked for in part."""
    parser.add_argument(
        "--match",
        metavar="TEXT",
        default="",
        help="whose key has this, or fits it (* ?)",
    )
    parser.add_argument("--limit", metavar="N", type=_count, help="so many at most")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


# -- completion ---------------------------------------------------------------------------------


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell where it asks for completions; does nothing otherwise."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _complete_with(action: argparse.Action, names: Callable[..., list[str]]) -> None:
    action.completer = names  # type: ignore[attr-defined]


def _vm_argument(parser: argparse.ArgumentParser) -> None:
    _complete_with(parser.add_argument("vm", metavar="VM", help="a VM or an endpoint"), _vm_names)


def _known(select: Callable[[dict[str, Any]], bool]) -> list[str]:
    try:
        status = client.ask(client.pick(None), "status")
    except HostsimError:
        return []
    return [node["name"] for node in (*status["vms"], *status["endpoints"]) if select(node)]


def _vm_names(**_: Any) -> list[str]:
    return _known(lambda node: True)


def _os_names(**_: Any) -> list[str]:
    return _known(lambda node: bool(node["os"]))


def _completion(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["hostsim", "hostsim-agent"], shell=arguments.shell))
    return 0


# -- commands -----------------------------------------------------------------------------------


def _print(arguments: argparse.Namespace, what: Any, table: str) -> int:
    """Print `what`, as JSON or as the table function of `show` named `table` shows it."""
    if arguments.json:
        json.dump(what, sys.stdout)
        print()
    else:
        from hostsim.cli import show

        getattr(show, table)(what)
    return 0


def _asks(op: str, table: str, *words: str) -> Callable[[argparse.Namespace], int]:
    """words: the options that the daemon is told."""

    def run(arguments: argparse.Namespace) -> int:
        told = {word: getattr(arguments, word) for word in words}
        return _print(arguments, client.ask(client.pick(arguments.host), op, **told), table)

    return run


_status = _asks("status", "status")
_devices = _asks("devices", "devices")
_flows = _asks("flows", "flows", "match", "limit")
_rules = _asks("rules", "rules", "match", "limit")


def _routes(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    if arguments.verb is None:
        return _print(arguments, client.ask(host, "routes"), "routes")
    if arguments.file is None:
        raise UsageError("routes apply", "no file", "hostsim routes apply FILE")
    from hostsim.hostfile import file as hostfile

    source = hostfile.read(arguments.file)
    _warn_of_shadows(hostfile.parse(*source))  # a wrong file is refused here
    done = client.ask(host, "apply", file=str(source.path), text=source.text)
    if done["ignored"]:
        print(
            f"hostsim: warning: not applied, since only `up` does: {', '.join(done['ignored'])}",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps(done))
    else:
        print(f"{done['routes']} routes in force (epoch {done['epoch']})")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    host = client.pick(arguments.host)
    return _print(
        arguments, client.ask(host, "explain", vm=arguments.vm, flow=arguments.flow), "explanation"
    )


def _verify(arguments: argparse.Namespace) -> int:
    rows = client.ask(client.pick(arguments.host), "verify")
    _print(arguments, rows, "conservation")
    return 1 if any(row["missing"] for row in rows) else 0


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
    from hostsim.hostfile import file as hostfile

    source = hostfile.read(arguments.file)
    spec = hostfile.parse(*source)  # a wrong file costs no daemon
    _warn_of_shadows(spec)
    _warn_of_loops(spec.uplinks)
    answer = client.up(str(source.path), source.text, arguments.foreground)
    print(f"host {answer['host']} is up (daemon {answer['pid']})")
    waiting = _warn_of_devices(client.ask(answer["host"], "devices") if spec.devices else [])
    return 1 if waiting and arguments.strict else 0


def _warn_of_devices(found: Sequence[dict[str, Any]]) -> int:
    """Say which devices no OS can have for now; how many."""
    waiting = [device for device in found if device.get("why")]
    for device in waiting:
        print(
            f"hostsim: warning: {device['name']} ({device['node']}) is not taken: {device['why']}; "
            "it is tried again",
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


def _warn_of_shadows(spec: Any) -> None:
    """Say which routes can never match: the first ones, and how many more there are."""
    from hostsim.routing import matchtext

    found = list(matchtext.shadowed(spec.routes))
    for route, above in found[:SHADOWS]:
        print(
            f"hostsim: warning: [[route]] {route.index + 1} never matches: "
            f"[[route]] {above.index + 1} takes all of its packets",
            file=sys.stderr,
        )
    if len(found) > SHADOWS:
        print(f"hostsim: warning: and {len(found) - SHADOWS:,} more such routes", file=sys.stderr)


def _down(arguments: argparse.Namespace) -> int:
    print(f"host {client.down(arguments.host)} is down")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    cleaned = client.clean()
    print(f"cleaned: {', '.join(cleaned)}" if cleaned else "nothing to clean")
    return 0


def _ls(arguments: argparse.Namespace) -> int:
    return _print(arguments, client.hosts(), "hosts")


def _exec(arguments: argparse.Namespace) -> int:
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise UsageError("exec", "no command", "hostsim exec VM -- CMD [ARG ...]")
    return client.enter(client.pick(arguments.host), arguments.vm, argv)


def _shell(arguments: argparse.Namespace) -> int:
    shell = os.environ.get("SHELL", "/bin/sh")
    return client.enter(client.pick(arguments.host), arguments.vm, [shell])


def _flip(arguments: argparse.Namespace) -> int:
    done = client.ask(client.pick(arguments.host), "flip", os=arguments.os)
    print(f"{done['foreground']} is the foreground, was {done['previous']} ({done['ms']:.1f} ms)")
    return 0


def _nf(arguments: argparse.Namespace) -> int:
    from cext import INCLUDE

    print(f"-I{INCLUDE}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    import importlib

    try:
        module = importlib.import_module(f"hostsim.bench.{arguments.name}")
    except ModuleNotFoundError as error:
        if error.name != f"hostsim.bench.{arguments.name}":
            raise
        raise HostsimError(f"bench {arguments.name}", "is not part of this version") from None
    parser = _Parser(prog=f"hostsim bench {arguments.name}", description=module.__doc__)
    parser.add_argument("--json", action="store_true", default=arguments.json)
    module.add_arguments(parser)
    options = parser.parse_args(arguments.options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_bench)
    try:
        found = module.run(options)
    except SystemExit as ended:
        # Where the signal came while a thread was being started, nobody knows that thread, and the
        # interpreter would wait for it for ever.
        os._exit(int(str(ended.code)))
    return _print(options, found, "bench")


def _end_bench(number: int, frame: object) -> None:
    """Ended from outside, a bench takes down what it made: sys.exit runs its finally clauses, and
    no second signal disturbs them."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
