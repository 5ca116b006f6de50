# SPDX-License-Identifier: Apache-2.0
"""The tables [[vm]] and [[endpoint]] of a host file.

    machine(table, file, folder, endpoint) -> VmSpec   raises HostFileError

Every key of a VM is checked here, but those of its network function (functions.py).
"""

import os.path
import re
import shlex
from ipaddress import ip_interface
from pathlib import Path

from hostsim.hostfile import functions, matches, networks, roots, values
from hostsim.hostfile.table import Table
from hostsim.model import (
    LOG_SIZE,
    NAME_MAX,
    OWN_DIRECTORIES,
    Background,
    Files,
    Interface,
    OsSpec,
    Restart,
    Seat,
    VmSpec,
)

MEMORY_MAX = 1 << 50
CPUS_MAX = 8192
PIDS_MAX = 1 << 22
"""The most that a kernel can have of each (PID_MAX_LIMIT, CONFIG_NR_CPUS)."""
LOG_MIN, LOG_MAX = 64 << 10, 1024 << 30

TMP = "/tmp"
"""systemd-tmpfiles empties it as an OS boots, and stops at what is mounted below it."""

_NF = re.compile(r"[a-z][a-z0-9_]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*|[^\s:]*/[^\s:]+\.so")


def machine(table: Table, file: str, folder: Path, endpoint: bool) -> VmSpec:
    """The VM or endpoint of `table`. file: the host file's name, for messages; folder: what paths
    in it start from. Raises HostFileError."""
    kind = "endpoint" if endpoint else "vm"
    name = table.name(NAME_MAX)
    table.rename(f"[[{kind}]] {name!r}")
    addresses = _addresses(table)
    run = table.take("run", str, "a command line")
    if run is not None:
        try:
            words = shlex.split(run)
        except ValueError as error:
            table.fail(f"run = {run!r} is no command line: {error}")
        if not words:
            table.fail("run is empty", "a command line, or leave the key out")
    files = table.choice("files", Files, "private")
    share = _share(table, files, folder)
    mac = values.mac(table)
    mtu = networks.mtu(table, addresses)
    ways = networks.ways(table, addresses)
    offload = networks.offload(table)
    router = networks.router(table)
    log_size = values.size(
        table, "log_size", LOG_MIN, LOG_MAX, f"{LOG_MIN >> 10}K to {LOG_MAX >> 30}G"
    )
    log_size = LOG_SIZE if log_size is None else log_size
    if endpoint:
        table.done()
        return VmSpec(
            name,
            endpoint=True,
            addresses=addresses,
            run=run,
            files=files,
            share=share,
            mac=mac,
            log_size=log_size,
            mtu=mtu,
            ways=ways,
            offload=offload,
            router=router,
        )
    nf = table.take("nf", str, "the name of a network function, or package.module:function")
    if nf is not None and not _NF.fullmatch(nf):
        table.fail(
            f"nf = {nf!r} is not allowed",
            'a shipped function\'s name, "package.module:function" or "./file.so"',
        )
    if nf is not None and run is not None:
        table.fail("both nf and run", "a VM has one program: a network function or its own")
    if nf is not None and table.has("offload"):
        table.fail("both nf and offload", "a packet function gets whole packets always")
    if nf is not None and ways:
        table.fail("both nf and a gateway or routes", "a packet function has no routes of its own")
    root = roots.root(table, folder)
    if root is not None and nf is not None:
        table.fail(
            "both nf and root",
            "a network function is a program of the machine, which is not there: leave one out",
        )
    if root is not None and root.boot and any(path == TMP for path, _ in share):
        table.fail(f"share has {TMP!r}", "an OS that boots empties its own; share a part of it")
    spec = VmSpec(
        name,
        addresses=addresses,
        memory=values.size(table, "memory", 1, MEMORY_MAX, "more than 0 and at most 1024T"),
        cpus=_cpus(table),
        pids=_pids(table),
        nf=nf,
        run=run,
        os=_os(table, file, name, nf),
        rate=matches.rate(table),
        files=files,
        share=share,
        root=root,
        restart=_restart(table, nf),
        settings=functions.settings(table, f"{file}: [[vm]] {name!r}", nf, mtu),
        mac=mac,
        log_size=log_size,
        mtu=mtu,
        ways=ways,
        offload=offload,
        router=router,
    )
    if nf == "nat" and functions.outside_address(spec) is None:
        table.fail('nf = "nat" without one IPv4 address', "it is the outside address")
    table.done()
    return spec


def _restart(table: Table, nf: str | None) -> Restart:
    """Whether the VM and its program are started again when they fail."""
    value: Restart = table.choice("restart", Restart, "no")
    if value != "no" and nf is not None:
        table.fail(f"both nf and restart = {value!r}", "a packet function is started again always")
    return value


def _share(table: Table, files: str, folder: Path) -> tuple[tuple[str, bool], ...]:
    """Directories of the machine, absolute, and whether each is read-only."""
    allowed = 'a list of directories, "./out", or read-only, "/srv/data:ro"'
    found: dict[str, bool] = {}
    for text in table.take("share", list, allowed) or ():
        if not isinstance(text, str) or "\0" in text:
            table.fail(f"share has {text!r}", f"share is {allowed}")
        name, colon, mode = text.rpartition(":")
        read_only = bool(colon) and mode == "ro"
        path = os.path.abspath(folder / (name if read_only else text))
        if any(f"{path}/".startswith(f"{own}/") for own in OWN_DIRECTORIES):
            table.fail(f"share has {text!r}", f"{', '.join(OWN_DIRECTORIES)} are each VM's own")
        if path == "/":
            table.fail(f"share has {text!r}", 'files = "shared" shares everything')
        if path in found:
            table.fail(f"share has {text!r} twice", "each directory once")
        found[path] = read_only
    if found and files == "shared":
        table.fail('both share and files = "shared"', "which shares everything already")
    return tuple(sorted(found.items()))


def _os(table: Table, file: str, name: str, nf: str | None) -> OsSpec | None:
    data = table.take("os", dict, "a table [vm.os]")
    if data is None:
        return None
    inner = Table(file, 0, f"[vm.os] of {name!r}", data)
    hook = "a shell command, run in the OS"
    spec = OsSpec(
        inner.choice("background", Background, "run"),
        inner.take("on_foreground", str, hook),
        inner.take("on_background", str, hook),
        inner.choice("restart", Restart, "no"),
        bool(inner.take("uinput", bool, "true or false")),
        _seat(inner),
    )
    inner.done()
    if spec.restart != "no" and nf is not None:
        table.fail(
            f"both nf and [vm.os] restart = {spec.restart!r}",
            "an OS that is started again has software of its own: leave nf or restart out",
        )
    return spec


def _seat(table: Table) -> Seat:
    allowed = 'true, false, or the libseat of its compositors: "0.7", "0.9"'
    value: Seat | None = table.take("seat", (bool, str), allowed)
    if isinstance(value, str) and value not in ("0.7", "0.9"):
        table.fail(f"seat = {value[:20]!r} is not allowed", f"seat is {allowed}")
    return True if value is None else value


def _addresses(table: Table) -> tuple[Interface, ...]:
    allowed = 'an address with its prefix length, "198.18.0.1/24", or a list of them'
    value = table.take("address", (str, list), allowed)
    texts = [] if value is None else [value] if isinstance(value, str) else value
    found: list[Interface] = []
    for text in texts:
        if not isinstance(text, str) or "/" not in text:
            table.fail(f"address = {text!r} is not allowed", f"address is {allowed}")
        try:
            address = ip_interface(text)
        except ValueError as error:
            table.fail(f"address = {text!r} is not allowed: {error}", f"address is {allowed}")
        edge = address.network.prefixlen < address.max_prefixlen - 1
        if address.ip.is_multicast or address.ip.is_loopback or address.ip.is_unspecified:
            table.fail(f"address = {text!r} is not a device's address")
        if edge and address.ip == address.network.network_address:
            table.fail(f"address = {text!r} is the network's own address")
        if edge and address.version == 4 and address.ip == address.network.broadcast_address:
            table.fail(f"address = {text!r} is the network's broadcast address")
        found.append(address)
    return tuple(found)


def _cpus(table: Table) -> float | None:
    allowed = f"CPUs' worth of time, 0.01 to {CPUS_MAX}"
    value = table.take("cpus", (int, float), allowed)
    if value is not None and not 0.01 <= value <= CPUS_MAX:
        table.fail(f"cpus = {value} is not allowed", f"cpus is {allowed}")
    return None if value is None else float(value)


def _pids(table: Table) -> int | None:
    allowed = f"the number of tasks, 2 (init and a program) to {PIDS_MAX}"
    value = table.take("pids", int, allowed)
    if value is not None and not 2 <= value <= PIDS_MAX:
        table.fail(f"pids = {value} is not allowed", f"pids is {allowed}")
    return None if value is None else int(value)
