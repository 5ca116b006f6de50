# SPDX-License-Identifier: Apache-2.0
"""A host, from a Python program: brought up and down as the command line does it, asked, changed.

    with Host("edge") as host: ...               up, and down at the end
    with Host.from_toml(text) as host: ...
    with Host.attach("edge") as host: ...        one that is up, and stays up

Every question goes to the host's daemon by its control socket; no event loop is needed. Threads may
share a host, and several hosts may be up at once. What fails raises HostsimError, with its hint.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from hostsim import protocol
from hostsim.cli import client
from hostsim.errors import HostFileError, HostsimError
from hostsim.hostfile import file as hostfile
from hostsim.hostfile.source import Source, read
from hostsim.lab import answers
from hostsim.lab.captured import MOST, SNAP, Captured
from hostsim.lab.node import Node
from hostsim.model import HostSpec
from hostsim.names import PATHS
from netns.process import wait_end

AS_ROOT = "run it as root"
PAUSE = 0.05
"""Seconds between two looks at a flow."""
REAP_DEADLINE = 5.0
"""Seconds for the daemon's process to be gone, once its lock is."""
OUTSIDE = "bridge"
"""Where a flow's last hop goes."""


class Host:
    """A host. As a context manager it is up within the block."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        """file: a host file's path, or the name of a host that ships. Raises HostFileError."""
        self._source: Source | None = _read(file, "Host.from_toml")
        self._begin(hostfile.parse(*self._source))

    def _begin(self, spec: HostSpec | None, name: str = "") -> None:
        self.name = spec.name if spec is not None else name
        self._nodes: dict[str, Node] = {}
        self._lock = threading.Lock()
        self._daemon = 0  # its pid, if it is our child
        self._up = False

    @classmethod
    def from_toml(cls, text: str) -> "Host":
        """A host whose host file is `text`; its programs run in the current directory. Raises
        HostFileError."""
        host = cls.__new__(cls)
        host._source = Source(text, Path.cwd() / "host.toml")
        host._begin(hostfile.parse(*host._source))
        return host

    @classmethod
    def attach(cls, name: str | None = None) -> "Host":
        """A host that is up, and that this program does not take down. name: None for the only
        one. Raises HostsimError if it is not up."""
        client.need_root("Host.attach", AS_ROOT)
        host = cls.__new__(cls)
        host._source = None
        host._begin(None, client.pick(name))
        host._up = True
        return host

    # -- life -------------------------------------------------------------------------------------

    def up(self) -> "Host":
        """Bring it up; returns once it is ready. Raises HostsimError, or KeyboardInterrupt, with
        nothing left behind."""
        if self._source is None or self._up:
            return self
        client.need_root("Host.up", AS_ROOT)
        path, text = self._source.path, self._source.text
        try:
            told = client.up(str(path), text)
        except client.Interrupted as error:
            raise KeyboardInterrupt(str(error)) from None  # whoever stops at Ctrl+C, stops
        self._daemon = int(told["pid"])
        self._up = True
        return self

    def down(self) -> None:
        """End what runs in it, and take it down unless it was attached to. Twice is harmless.
        Raises HostsimError if something stays; `hostsim clean` removes it then."""
        self._let_go()
        if not self._up:
            return
        self._up = False
        if self._source is None:
            return
        try:
            if any(one["host"] == self.name for one in client.hosts()):  # not down already
                client.down(self.name)
        finally:
            self._reap()

    def _let_go(self) -> None:
        with self._lock:
            nodes = list(self._nodes.values())
            self._nodes.clear()
        for node in nodes:
            node.close()

    def _reap(self) -> None:
        """The daemon is our child. One that does not end is left to whoever ends it."""
        daemon, self._daemon = self._daemon, 0
        if not daemon:
            return
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            handle = os.pidfd_open(daemon)
            try:
                if wait_end(handle, REAP_DEADLINE):
                    os.waitpid(daemon, 0)
            finally:
                os.close(handle)

    def __enter__(self) -> "Host":
        return self.up()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    # -- VMs and endpoints ------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """A VM or an endpoint by its name. Raises HostsimError if there is none."""
        with self._lock:
            known = self._nodes.get(name)
        if known is not None:
            return known
        names = list(self)
        if name not in names:
            there = ", ".join(names)
            raise HostsimError(
                name, f"no VM or endpoint of host {self.name}", f"there are: {there}"
            )
        with self._lock:
            for one in names:  # of all of them: the status of a large host takes long
                self._nodes.setdefault(one, Node(one, self.name, self._ask))
            return self._nodes[name]

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        """The names of its VMs, then of its endpoints."""
        found = self._ask("status")
        return iter([node["name"] for node in (*found["vms"], *found["endpoints"])])

    # -- questions --------------------------------------------------------------------------------

    def status(self) -> answers.Status:
        """How it stands."""
        return answers.read(answers.Status, self._ask("status"))

    def ping(self) -> list[answers.Ping]:
        """Whether every VM and endpoint with an address hears every other, within a second each."""
        from hostsim.cli import ping  # it brings the command line's grammar

        self._ask("routes")  # says what became of the host
        return [answers.read(answers.Ping, row) for row in ping.matrix(self.name)]

    def flows(self, match: str = "", limit: int | None = None) -> list[answers.Flow]:
        """Its flows. match: a part of the key, or a pattern of it (* ?); limit: so many at most."""
        found = self._ask("flows", match=match, limit=limit)
        return [answers.read(answers.Flow, row) for row in found]

    def rules(self, match: str = "", limit: int | None = None) -> list[answers.Rule]:
        """The routing rules that its transfer components hold; match, limit: as for `flows`."""
        found = self._ask("rules", match=match, limit=limit)
        return [answers.read(answers.Rule, row) for row in found]

    def routes(self) -> list[answers.Route]:
        """The policy in force."""
        return [answers.read(answers.Route, row) for row in self._ask("routes")]

    def verify(self, match: str = "", limit: int | None = None) -> list[answers.Balance]:
        """What each VM sent of each flow, held against what carried it; match, limit: as for
        `flows`."""
        found = self._ask("verify", match=match, limit=limit)
        return [answers.read(answers.Balance, row) for row in found]

    def explain(self, vm: str | Node, flow: str) -> answers.Explanation:
        """What would happen to a flow at a VM or endpoint, and why. flow: its key, as in
        `tcp:198.18.0.10:40000>198.18.0.20:80`."""
        return answers.read(answers.Explanation, self._ask("explain", vm=_name(vm), flow=flow))

    def links(self) -> list[answers.Link]:
        """Its impaired links, and what befell their packets."""
        return [answers.read(answers.Link, row) for row in self._ask("links")]

    def capture(
        self, *vms: str | Node, match: str | None = None, snap: int = SNAP, most: int = MOST
    ) -> Captured:
        """The packets of every path, for as long as its `with` block lasts: see `Captured`.

        vms: of these VMs and endpoints; none: of all
        match: of these flows, as in a host file: `{ proto = "tcp", dport = 80 }`; replies too
        snap: bytes of a packet at most
        most: packets at most; what comes then is counted as lost

        Raises HostsimError, OSError.
        """
        names = tuple(_name(vm) for vm in vms)
        return Captured(lambda: self._ask("sight"), names, match, snap, most)

    def log(self, lines: int = 50) -> str:
        """The last lines of its daemon's log."""
        try:
            text = (protocol.folder(self.name) / "log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    # -- changes ----------------------------------------------------------------------------------

    def apply(self, file: str | os.PathLike[str], dry_run: bool = False) -> answers.Applied:
        """Have the VMs, endpoints, links and routes of a host file, while the rest runs. dry_run:
        only say what that would do. Raises HostsimError, with everything as it was."""
        return self._apply(_read(file, "apply_toml"), dry_run)

    def apply_toml(self, text: str, dry_run: bool = False) -> answers.Applied:
        """As `apply`, of a host file whose text this is; its programs run in the current directory.
        Raises HostsimError, with everything as it was."""
        return self._apply(Source(text, Path.cwd() / "host.toml"), dry_run)

    def _apply(self, source: Source, dry_run: bool) -> answers.Applied:
        hostfile.parse(*source)  # a wrong file is refused here
        told = self._ask("apply", file=str(source.path), text=source.text, dry_run=dry_run)
        done = answers.read(answers.Applied, told)
        with self._lock:
            gone = [] if dry_run else [self._nodes.pop(name, None) for name in done.removed]
        for node in gone:
            if node is not None:
                node.close()
        return done

    def flip(self, os: str | Node) -> answers.Flipped:
        """Make an OS the foreground; returns when it has the equipment."""
        return answers.read(answers.Flipped, self._ask("flip", os=_name(os)))

    # -- assertions -------------------------------------------------------------------------------

    def expect(self, flow: str, path: str = "veth", within: float = 2.0) -> answers.Flow:
        """Wait until a flow goes from VM to VM by `path` (switch, veth or ring); the flow. Its last
        hop, out of the chain, is always the switch's.

        flow: its key, or a pattern of keys (* ?) that one flow has to fit.
        Raises HostsimError after `within` seconds, with the paths and what `explain` says; at once
        if there is no such path.
        """
        if path not in PATHS:
            raise HostsimError(
                "expect", f"path = {path!r} is not allowed", f"path is one of {', '.join(PATHS)}"
            )
        deadline = time.monotonic() + within
        while True:
            found = self.flows(flow)
            for one in found:
                if _goes_by(one, path):
                    return one
            if time.monotonic() > deadline:
                break
            select.select([], [], [], PAUSE)
        if not found:
            raise HostsimError(f"flow {flow}", f"not seen within {within:g} s", self._why(flow))
        paths = ", ".join(f"{hop.vm} -> {hop.to}: {hop.path}" for hop in found[0].hops)
        why = f"not by {path} within {within:g} s ({paths or 'it is bridged'})"
        raise HostsimError(f"flow {found[0].key}", why, self._why(found[0].key))

    def _why(self, key: str) -> str:
        """What `explain` says of a flow where it enters its chain, or where it comes from."""
        source = key.partition(":")[2].partition(">")[0]
        try:
            for node in self.status().nodes:
                addresses = {one.partition("/")[0] for one in node.addresses}
                if source.rpartition(":")[0].strip("[]") in addresses or source in addresses:
                    return f"explain: {self.explain(node.name, key)}"
        except HostsimError:
            pass  # the key is a pattern, or the host is going: what is raised says enough
        return "hostsim explain VM FLOW says what would happen to it"

    def _ask(self, op: str, **arguments: Any) -> Any:
        if not self._up:
            raise HostsimError(
                f"host {self.name}", "is not up", "with Host(...) as host: brings it up"
            )
        client.pick(self.name)  # says what became of it
        return client.ask(self.name, op, **arguments)


def _name(vm: str | Node) -> str:
    return vm.name if isinstance(vm, Node) else vm


def _read(file: str | os.PathLike[str], of_text: str) -> Source:
    """The host file. of_text: what takes its text instead. Raises HostFileError."""
    name = os.fspath(file)
    if "\n" in name:
        raise HostFileError("a host file", "this is its text, and no path", f"{of_text}(text)")
    return read(name)


def _goes_by(flow: answers.Flow, path: str) -> bool:
    hops = [hop for hop in flow.hops if hop.to != OUTSIDE]
    if not hops:
        return bool(flow.hops) and path == "switch"
    return all(hop.path == path for hop in hops)
