# SPDX-License-Identifier: Apache-2.0
"""Reads a host file (TOML) into the model, and refuses a wrong one before anything is made.

    load(file) -> HostSpec   raises HostFileError: file, line, table, why, what is allowed

Every key and value is checked here, so nothing behind this module asks again. The file is read by
source.py.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hostsim.errors import HostFileError
from hostsim.hostfile import equipment, functions, links, matches, roots
from hostsim.hostfile.machines import machine
from hostsim.hostfile.source import read
from hostsim.hostfile.table import NAME_SHOWN, Table, is_link, is_reserved, unusable
from hostsim.model import DeviceSpec, HostSpec, LinkSpec, VmSpec

PORTS_MAX = 1023
"""A Linux bridge's: BR_PORT_BITS in the kernel's net/bridge/br_private.h, less port 0."""
OSES_MAX = 16
"""HS_FWD_OSES (cext/input/forward.h)."""


def load(name: str) -> HostSpec:
    """Read the host file `name`, see `read`. Raises HostFileError."""
    return parse(*read(name))


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


class _Parser:
    def __init__(self, file: str, text: str, data: dict[str, Any]) -> None:
        self._file = file
        self._text = text
        self._data = data

    def host(self, path: Path) -> HostSpec:
        tops = (
            "host",
            "switch",
            "endpoint",
            "vm",
            "route",
            "filter",
            "mirror",
            "link",
            "device",
            "kmc",
        )
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
        endpoints, vms = (
            tuple(
                machine(table, self._file, path.parent, endpoint=kind == "endpoint")
                for table in self._tables(kind)
            )
            for kind in ("endpoint", "vm")
        )
        self._unique((*endpoints, *vms))
        for vm, other in roots.keep_together(vms):
            raise HostFileError(
                f"{self._file}: [[vm]] {vm!r}",
                f"keep is that of {other!r} too",
                "a directory for each VM, and none in another one",
            )
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
        impaired = self._links([*inside, *outside])
        oses = [vm.name for vm in vms if vm.os is not None]
        uplinks, may = self._uplinks([*inside, *outside])
        may_take = [*uplinks] if may else []
        self._few_enough(len(vms) + len(endpoints) + len(uplinks), len(oses))
        devices: list[DeviceSpec] = []
        nics: list[str] = []
        screens: list[str] = []
        sounds: list[str] = []
        for index, table in enumerate(self._tables("device")):
            if not oses:
                table.fail("a device, and no VM is an operating system", "add [vm.os] to a VM")
            match = table.take("match", dict, "a table, { name = … }")
            if match and "interface" in match:
                if table.take("take_default_route", bool, "true or false"):
                    may_take.append(str(match["interface"]))
                nics.append(equipment.nic(table, match, [*uplinks, *nics]))
            elif match and "screen" in match:
                screens.append(equipment.screen(table, match))
            elif match and "sound" in match:
                sounds.append(equipment.sound(table, match))
            else:
                devices.append(equipment.device(index, table, match))
        kmc = equipment.kmc(self._single("kmc"), oses)
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
            impaired,
            tuple(may_take),
            tuple(screens),
            tuple(sounds),
        )

    def _links(self, names: list[str]) -> tuple[LinkSpec, ...]:
        found: list[LinkSpec] = []
        for table in self._tables("link"):
            one = links.link(table, names)
            if any(one.of == o.of and "both" in (one.direction, o.direction) for o in found) or any(
                (one.of, one.direction) == (o.of, o.direction) for o in found
            ):
                table.fail(
                    f"{one.of!r} has a [[link]] of that direction already", "one each way, or both"
                )
            found.append(one)
        return tuple(found)

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
        table = self._single("switch")
        allowed = 'a list of network interfaces of this machine, ["eth1"]'
        found = table.take("uplinks", list, allowed) or []
        for name in found:
            if not is_link(name):
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

    def _single(self, key: str) -> Table:
        """The table [key], empty if the file has none."""
        data = self._data.get(key, {})
        there = isinstance(data, dict)
        table = Table(self._file, self._line_of(key, 0), f"[{key}]", data if there else {})
        if not there:
            table.fail(f"{key} is not a table", f"write [{key}]")
        return table

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
