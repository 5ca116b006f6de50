"""Reads a host file (TOML) into the model, and refuses a wrong one before anything is made.

    load(file) -> HostSpec   raises HostFileError: file, line, table, why, what is allowed

Every key and value is checked here, so nothing behind this module asks again. Reads the file;
does nothing else.
"""

import os.path
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable
from importlib import resources
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, NamedTuple

from hostsim.errors import HostFileError, reason
from hostsim.hostfile import functions, matches, values
from hostsim.hostfile.table import LINK_MAX, Table, is_number, is_reserved, unusable
from hostsim.model import (
    LOG_SIZE,
    NAME_MAX,
    OWN_DIRECTORIES,
    Background,
    DeviceMode,
    DeviceSpec,
    Files,
    Held,
    HostSpec,
    Interface,
    KmcSpec,
    OsSpec,
    Restart,
    VmSpec,
)

DEVICE_NUMBERS = ("vendor", "product")

FILE_MAX = 16 << 20
"""Bytes of a host file."""
NAME_SHOWN = 60
"""Characters of a name that nothing has, in a message."""
MEMORY_MAX = 1 << 50
CPUS_MAX = 8192
PIDS_MAX = 1 << 22
"""The most that a kernel can have of each (PID_MAX_LIMIT, CONFIG_NR_CPUS)."""
LOG_MIN, LOG_MAX = 64 << 10, 1024 << 30
PORTS_MAX = 1023
"""A Linux bridge's: BR_PORT_BITS in the kernel's net/bridge/br_private.h, less port 0."""
HOTKEY_MAX = 8
OSES_MAX = 16
"""HS_FWD_CHORD and HS_FWD_OSES (cext/input/forward.h)."""

_LINK = re.compile(r"[^\s/:\x00-\x1f]+")
_KEY = re.compile(r"(KEY|BTN)_[A-Z0-9_]+")
_TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|s)")
_NF = re.compile(r"[a-z][a-z0-9_]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*|[^\s:]*/[^\s:]+\.so")


def shipped() -> dict[str, Path]:
    """The hosts that come with hostsim: file by name."""
    folder = Path(str(resources.files("hostsim") / "hosts"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


class Source(NamedTuple):
    """A host file as it was read. path: for messages, and for where programs run."""

    text: str
    path: Path


def load(name: str) -> HostSpec:
    """Read the host file `name`, see `read`. Raises HostFileError."""
    return parse(*read(name))


def read(name: str) -> Source:
    """The host file `name`: a path, the name of a shipped host, or `-` for standard input. Where it
    is no regular file, but a pipe, programs run in the current directory. Raises HostFileError."""
    path = Path(name)
    known = shipped()
    try:
        if name == "-":
            path = Path.cwd() / "standard input"
            raw = sys.stdin.buffer.read(FILE_MAX + 1)
        else:
            if name in known and not path.exists():
                path = known[name]
            with path.open("rb") as file:
                raw = file.read(FILE_MAX + 1)
            path = path.resolve() if path.is_file() else Path.cwd() / path.name
    except FileNotFoundError:
        raise HostFileError(
            name, "no such host file", f"a path, or one of: {', '.join(known)}"
        ) from None
    except (OSError, ValueError) as error:
        raise HostFileError(name, f"cannot be read: {reason(error)}") from None
    if len(raw) > FILE_MAX:
        raise HostFileError(name, f"is longer than {FILE_MAX >> 20} MiB", "split the host")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise HostFileError(f"{path.name}:{line}", "is not UTF-8", "TOML is UTF-8") from None
    return Source(text.replace("\r\n", "\n"), path)


def parse(text: str, path: Path) -> HostSpec:
    """The model of `text`; `path` is for messages and for where programs run."""
    file = path.name
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{file}:{line.group(1)}" if line else file
        raise HostFileError(place, f"not TOML: {error}") from None
    except RecursionError:
        raise HostFileError(file, "not TOML: it is nested too deeply") from None
    except ValueError as error:  # what tomllib hands to int() and its like
        raise HostFileError(file, f"not TOML: {str(error).partition(';')[0]}") from None
    why = unusable(data)
    if why is not None:
        raise HostFileError(file, why)
    return _Parser(file, text, data).host(path)


def _is_key(name: str) -> bool:
    from netns.evdevices import key_code  # evdev: only for hosts with a hotkey

    try:
        key_code(name)
    except KeyError:
        return False
    return True


def _is_link(name: object) -> bool:
    """Whether the kernel allows an interface such a name (dev_valid_name)."""
    return (
        isinstance(name, str)
        and _LINK.fullmatch(name) is not None
        and len(name.encode()) <= LINK_MAX
        and name not in (".", "..")
    )


class _Parser:
    def __init__(self, file: str, text: str, data: dict[str, Any]) -> None:
        self._file = file
        self._text = text
        self._data = data
        self._folder = Path()  # what paths in the file start from

    def host(self, path: Path) -> HostSpec:
        self._folder = path.parent
        tops = ("host", "switch", "endpoint", "vm", "route", "filter", "mirror", "device", "kmc")
        for key in self._data:
            if key not in tops:
                raise HostFileError(
                    f"{self._file}:{self._line_of(key, 0)}",
                    f"unknown table [{key[:NAME_SHOWN]}]",
                    f"allowed: {', '.join(tops)}",
                )
        if not isinstance(self._data.get("host"), dict):
            raise HostFileError(self._file, "table [host] is missing", 'it gives the name = "…"')
        head = Table(self._file, self._line_of("host", 0), "[host]", self._data["host"])
        name = head.name(32)
        head.done()
        endpoints = tuple(self._vm(table, endpoint=True) for table in self._tables("endpoint"))
        vms = tuple(self._vm(table, endpoint=False) for table in self._tables("vm"))
        self._unique((*endpoints, *vms))
        inside, outside = [vm.name for vm in vms], [endpoint.name for endpoint in endpoints]
        routes = tuple(
            matches.route(table, index, inside, outside)
            for index, table in enumerate(self._tables("route"))
        )
        by_name = {vm.name: vm for vm in vms}
        for route in routes:
            why = functions.check_nat(route, by_name)
            if why is not None:
                raise HostFileError(
                    f"{self._file}:{self._line_of('route', route.index)}: [[route]]"
                    f" {route.index + 1}",
                    why,
                    "put the translator last, in a route that L2 to L4 decide",
                )
        filters = tuple(
            matches.packet_filter(table, index, [*inside, *outside])
            for index, table in enumerate(self._tables("filter"))
        )
        mirrors = tuple(
            matches.mirror(table, index, [*inside, *outside])
            for index, table in enumerate(self._tables("mirror"))
        )
        oses = [vm.name for vm in vms if vm.os is not None]
        uplinks, may = self._uplinks([*inside, *outside])
        may_take = [*uplinks] if may else []
        self._few_enough(len(vms) + len(endpoints) + len(uplinks), len(oses))
        devices: list[DeviceSpec] = []
        nics: list[str] = []
        for index, table in enumerate(self._tables("device")):
            if not oses:
                table.fail("a device, and no VM is an operating system", "add [vm.os] to a VM")
            match = table.take("match", dict, "a table, { name = … }")
            if match and "interface" in match:
                if table.take("take_default_route", bool, "true or false"):
                    may_take.append(str(match["interface"]))
                nics.append(self._nic(table, match, [*uplinks, *nics]))
            else:
                devices.append(self._device(index, table, match))
        kmc = self._kmc(oses)
        return HostSpec(
            name,
            path,
            vms,
            endpoints,
            routes,
            filters,
            mirrors,
            tuple(devices),
            kmc,
            uplinks,
            tuple(nics),
            tuple(may_take),
        )

    def _few_enough(self, ports: int, oses: int) -> None:
        for count, most, what in (
            (ports, PORTS_MAX, "VMs, endpoints and uplinks"),
            (oses, OSES_MAX, "operating systems"),
        ):
            if count > most:
                raise HostFileError(self._file, f"{count} {what}", f"a host has at most {most}")

    def _uplinks(self, names: list[str]) -> tuple[tuple[str, ...], bool]:
        """[switch] uplinks: names as the kernel allows them (dev_valid_name), each once; and
        whether they may have the machine's default route."""
        data = self._data.get("switch", {})
        table = Table(
            self._file,
            self._line_of("switch", 0),
            "[switch]",
            data if isinstance(data, dict) else {},
        )
        if not isinstance(data, dict):
            table.fail("switch is not a table", "write [switch]")
        allowed = 'a list of network interfaces of this machine, ["eth1"]'
        found = table.take("uplinks", list, allowed) or []
        for name in found:
            if not _is_link(name):
                table.fail(f"uplinks has {name!r}, which names no interface", f"it is {allowed}")
            if name in names or is_reserved(name):
                table.fail(
                    f"uplinks has {name!r}, which is a port of the switch already",
                    "name the VM or endpoint otherwise",
                )
        if len(set(found)) != len(found):
            table.fail("uplinks has an interface twice", "each becomes one port")
        may = table.take("take_default_route", bool, "true or false")
        table.done()
        return tuple(found), bool(may)

    # -- tables -----------------------------------------------------------------------------------

    def _line_of(self, key: str, nth: int) -> int:
        """The line where the nth table [key] or [[key]] starts; 0 if it was written otherwise."""
        header = re.compile(rf"^[ \t]*\[\[?[ \t]*{re.escape(key)}[ \t]*\]", re.MULTILINE)
        for at, found in enumerate(header.finditer(self._text)):
            if at == nth:
                return self._text.count("\n", 0, found.start()) + 1
        return 0

    def _tables(self, key: str) -> Iterable[Table]:
        tables = self._data.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise HostFileError(
                f"{self._file}:{self._line_of(key, 0)}",
                f"{key} is not a list of tables",
                f"write [[{key}]] before each",
            )
        for nth, table in enumerate(tables):
            yield Table(self._file, self._line_of(key, nth), f"[[{key}]] {nth + 1}", table)

    def _vm(self, table: Table, endpoint: bool) -> VmSpec:
        kind = "endpoint" if endpoint else "vm"
        name = table.name(NAME_MAX)
        table.rename(f"[[{kind}]] {name!r}")
        addresses = self._addresses(table)
        run = table.take("run", str, "a command line")
        if run is not None:
            try:
                words = shlex.split(run)
            except ValueError as error:
                table.fail(f"run = {run!r} is no command line: {error}")
            if not words:
                table.fail("run is empty", "a command line, or leave the key out")
        files = table.choice("files", Files, "private")
        share = self._share(table, files)
        mac = values.mac(table)
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
            )
        nf = table.take("nf", str, "the name of a network function, or package.module:function")
        if nf is not None and not _NF.fullmatch(nf):
            table.fail(
                f"nf = {nf!r} is not allowed",
                'a shipped function\'s name, "package.module:function" or "./file.so"',
            )
        if nf is not None and run is not None:
            table.fail("both nf and run", "a VM has one program: a network function or its own")
        spec = VmSpec(
            name,
            addresses=addresses,
            memory=values.size(table, "memory", 1, MEMORY_MAX, "more than 0 and at most 1024T"),
            cpus=self._cpus(table),
            pids=self._pids(table),
            nf=nf,
            run=run,
            os=self._os(table, name, nf),
            rate=matches.rate(table),
            files=files,
            share=share,
            settings=functions.settings(table, f"{self._file}: [[vm]] {name!r}", nf),
            mac=mac,
            log_size=log_size,
        )
        if nf == "nat" and functions.outside_address(spec) is None:
            table.fail('nf = "nat" without one IPv4 address', "it is the outside address")
        table.done()
        return spec

    def _share(self, table: Table, files: str) -> tuple[tuple[str, bool], ...]:
        """Directories of the machine, absolute, and whether each is read-only."""
        allowed = 'a list of directories, "./out", or read-only, "/srv/data:ro"'
        found: dict[str, bool] = {}
        for text in table.take("share", list, allowed) or ():
            if not isinstance(text, str) or "\0" in text:
                table.fail(f"share has {text!r}", f"share is {allowed}")
            name, colon, mode = text.rpartition(":")
            read_only = bool(colon) and mode == "ro"
            path = os.path.abspath(self._folder / (name if read_only else text))
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

    def _os(self, table: Table, name: str, nf: str | None) -> OsSpec | None:
        data = table.take("os", dict, "a table [vm.os]")
        if data is None:
            return None
        inner = Table(self._file, 0, f"[vm.os] of {name!r}", data)
        hook = "a shell command, run in the OS"
        spec = OsSpec(
            inner.choice("background", Background, "run"),
            inner.take("on_foreground", str, hook),
            inner.take("on_background", str, hook),
            inner.choice("restart", Restart, "no"),
        )
        inner.done()
        if spec.restart != "no" and nf is not None:
            table.fail(
                f"both nf and [vm.os] restart = {spec.restart!r}",
                "an OS that is started again has software of its own: leave nf or restart out",
            )
        return spec

    def _addresses(self, table: Table) -> tuple[Interface, ...]:
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

    def _cpus(self, table: Table) -> float | None:
        allowed = f"CPUs' worth of time, 0.01 to {CPUS_MAX}"
        value = table.take("cpus", (int, float), allowed)
        if value is not None and not 0.01 <= value <= CPUS_MAX:
            table.fail(f"cpus = {value} is not allowed", f"cpus is {allowed}")
        return None if value is None else float(value)

    def _pids(self, table: Table) -> int | None:
        allowed = f"the number of tasks, 2 (init and a program) to {PIDS_MAX}"
        value = table.take("pids", int, allowed)
        if value is not None and not 2 <= value <= PIDS_MAX:
            table.fail(f"pids = {value} is not allowed", f"pids is {allowed}")
        return None if value is None else int(value)

    def _unique(self, specs: tuple[VmSpec, ...]) -> None:
        names: set[str] = set()
        addresses: dict[Any, str] = {}
        macs: dict[str, str] = {}
        for spec in specs:
            title = f"{self._file}: [[{'endpoint' if spec.endpoint else 'vm'}]] {spec.name!r}"
            if spec.name in names:
                raise HostFileError(title, "this name stands twice", "names are unique in a host")
            names.add(spec.name)
            for address in spec.addresses:
                if address.ip in addresses:
                    raise HostFileError(
                        title, f"address {address.ip} belongs to {addresses[address.ip]!r} already"
                    )
                addresses[address.ip] = spec.name
            if spec.mac is not None and macs.setdefault(spec.mac, spec.name) != spec.name:
                raise HostFileError(title, f"mac {spec.mac} belongs to {macs[spec.mac]!r} already")

    # -- the KMC's part ---------------------------------------------------------------------------

    def _nic(self, table: Table, match: dict[str, Any], taken: list[str]) -> str:
        """A network interface as equipment: its name on this machine, and nothing else."""
        name = match["interface"]
        if len(match) > 1:
            table.fail("match has interface and other keys", "an interface is meant by its name")
        if not isinstance(name, str) or not _is_link(name):
            table.fail(f"match: interface = {name!r} names no interface", 'a name such as "eth1"')
        if is_reserved(name) or name == "eth0":
            table.fail(
                f"match: interface = {name!r} is a name that an OS has already",
                f"ip link set dev {name} name lan0 gives it another",
            )
        if name in taken:
            table.fail(f"match: interface = {name!r} stands twice", "it can be in one place only")
        table.done()
        return name

    def _device(self, index: int, table: Table, match: dict[str, Any] | None) -> DeviceSpec:
        if not match:
            table.fail(
                "match is missing or empty",
                "name, vendor, product, phys or a udev property; or interface",
            )
        for key, value in match.items():
            number = key in DEVICE_NUMBERS
            right = is_number(value) and 0 <= value <= 0xFFFF if number else isinstance(value, str)
            if not right:
                table.fail(
                    f"match: {key[:NAME_SHOWN]} = {value!r} is not allowed",
                    "vendor and product are numbers, 0 to 0xffff; every other key is a pattern"
                    " (a string)",
                )
        hotkey = table.take("hotkey", list, "a list of key names, KEY_…") or []
        for key in hotkey:
            if not isinstance(key, str) or not _KEY.fullmatch(key) or not _is_key(key):
                table.fail(
                    f"hotkey: {key!r} is no key", "names are KEY_… or BTN_…, as evtest shows"
                )
        if len(hotkey) > HOTKEY_MAX or len(set(hotkey)) != len(hotkey):
            table.fail(
                f"hotkey has {len(hotkey)} keys, or one twice", f"it has at most {HOTKEY_MAX} keys"
            )
        mode = table.choice("mode", DeviceMode, "mirror")
        table.done()
        return DeviceSpec(index, dict(match), mode, tuple(hotkey))

    def _kmc(self, oses: list[str]) -> KmcSpec:
        data = self._data.get("kmc", {})
        table = Table(
            self._file, self._line_of("kmc", 0), "[kmc]", data if isinstance(data, dict) else {}
        )
        if not isinstance(data, dict):
            table.fail("kmc is not a table", "write [kmc]")
        foreground = self._os_name(table, "foreground", oses)
        fallback = self._os_name(table, "fallback", oses)
        names = 'a list of OS names, or ["*"] for all'
        may_flip = table.take("may_flip", list, names)
        for name in may_flip or ():
            if name != "*" and name not in oses:
                table.fail(f"may_flip has {name!r}", f"it is {names}: {', '.join(oses)}")
        allowed = 'a time such as "200ms" or "1s", from 1ms to 60s'
        text = table.take("release_timeout", str, allowed)
        timeout = KmcSpec.release_timeout
        if text is not None:
            match = _TIME.fullmatch(text)
            timeout = (
                float(match.group(1)) / (1000 if match.group(2) == "ms" else 1) if match else 0
            )
            if not 0.001 <= timeout <= 60:
                table.fail(f"release_timeout = {text!r} is not allowed", f"it is {allowed}")
        held = table.choice("held", Held, "lift")
        table.done()
        may = KmcSpec.may_flip if may_flip is None else tuple(may_flip)
        return KmcSpec(foreground or (oses[0] if oses else None), timeout, may, fallback, held)

    def _os_name(self, table: Table, key: str, oses: list[str]) -> str | None:
        name: str | None = table.take(key, str, "the name of an OS")
        if name is not None and name not in oses:
            table.fail(
                f"{key} = {name!r} is no operating system of this host",
                f"operating systems (VMs with [vm.os]): {', '.join(oses) or 'none'}",
            )
        return name
