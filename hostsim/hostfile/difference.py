# SPDX-License-Identifier: Apache-2.0
"""What a host file says otherwise than the running host: what `hostsim apply` does about it, and
what only `up` does. Pure.

    plan(running, file) -> Plan   raises HostsimError if an apply cannot do it
    unapplied(running, file)      what differs of VMs and endpoints that both have
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from hostsim.errors import HostsimError
from hostsim.model import HostSpec, KmcSpec, OsSpec, VmSpec

OF_VM = {
    "addresses": "address",
    "memory": "memory",
    "cpus": "cpus",
    "pids": "pids",
    "files": "files",
    "share": "share",
    "root": "root, keep, boot, users or containers",
    "nf": "nf",
    "run": "run",
    "os": "[vm.os]",
    "settings": "the tables of nf",
    "mac": "mac",
    "mtu": "mtu",
    "ways": "gateway or routes",
    "offload": "offload",
    "router": "router",
    "restart": "restart",
    "log_size": "log_size",
}
OF_HOST = {"name": "[host] name", "uplinks": "[switch] uplinks", "devices": "[[device]]"}
OF_HOST |= {"may_take": "[switch] take_default_route"}
OF_HOST |= {"nics": "[[device]] interface", "kmc": "[kmc] foreground or held"}
OF_HOST |= {"screens": "[[device]] screen", "sounds": "[[device]] sound"}
"""Fields of the model, and what the host file calls them."""
EQUIPMENT = ("devices", "nics", "screens", "sounds")
"""Fields of the host's that its OSes share."""
OS_CHANGES = ("background", "restart")
"""Fields of `OsSpec` that an OS in the background can change while it runs."""


def unapplied(running: HostSpec, file: HostSpec) -> list[str]:
    """What differs, in the host file's words; of VMs and endpoints that both have."""
    then = _equipped(running, file)
    found = [word for name, word in OF_HOST.items() if getattr(then, name) != getattr(file, name)]
    others = {vm.name: vm for vm in (*file.vms, *file.endpoints)}
    for vm in (*running.vms, *running.endpoints):
        other = others.get(vm.name, vm)
        found += [
            f"{word} of {vm.name}"
            for name, word in OF_VM.items()
            if getattr(_kept(vm, other), name) != getattr(other, name)
        ]
    return found


@dataclass(frozen=True)
class Plan:
    """What an apply does. spec: the host as it is then; added, removed: VMs and endpoints; policy:
    a line for each other thing that changes; changed: VMs whose packet function becomes another, or
    gets other tables; oses: those that stay, and change; ignored: what only `up` does."""

    spec: HostSpec
    added: tuple[VmSpec, ...]
    removed: tuple[VmSpec, ...]
    policy: tuple[str, ...]
    changed: tuple[VmSpec, ...]
    oses: tuple[VmSpec, ...]
    ignored: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """A line for each thing that changes."""
        return [
            *(f"{_kind(one)} {one.name} is added" for one in self.added),
            *(f"{_kind(one)} {one.name} is removed" for one in self.removed),
            *(f"the packet function of {one.name} changes" for one in self.changed),
            *(f"[vm.os] of {one.name} changes" for one in self.oses),
            *self.policy,
        ]


def plan(running: HostSpec, file: HostSpec) -> Plan:
    """See above."""
    mine = {one.name: one for one in (*running.vms, *running.endpoints)}
    theirs = {one.name: one for one in (*file.vms, *file.endpoints)}
    added = tuple(one for name, one in theirs.items() if name not in mine)
    removed = tuple(one for name, one in mine.items() if name not in theirs)
    for name in mine.keys() & theirs.keys():
        if mine[name].endpoint != theirs[name].endpoint:
            raise HostsimError(
                "apply", f"{name} is {_a(mine[name])}, and {_a(theirs[name])} in the file",
                "give it another name",
            )  # fmt: skip
    _refuse_equipment(running, file)
    for name in mine.keys() & theirs.keys():
        _refuse_os(mine[name], theirs[name])

    def kept(specs: Iterable[VmSpec]) -> tuple[VmSpec, ...]:
        """As they run, with the file's rate and packet function."""
        return tuple(_kept(mine[one.name], one) if one.name in mine else one for one in specs)

    then = replace(
        _equipped(running, file),
        vms=kept(file.vms),
        endpoints=kept(file.endpoints),
        routes=file.routes,
        filters=file.filters,
        mirrors=file.mirrors,
        links=file.links,
    )
    policy = [
        line
        for word, before, after in (
            ("route", running.routes, file.routes),
            ("filter", running.filters, file.filters),
            ("mirror", running.mirrors, file.mirrors),
            ("link", running.links, file.links),
        )
        for line in _changed(word, before, after)
    ]
    policy += [
        f"rate of {name} changes"
        for name in mine.keys() & theirs.keys()
        if mine[name].rate != theirs[name].rate
    ]
    first = replace(running.kmc, foreground=then.kmc.foreground)  # only `up` goes by it
    if running.os_names() and file.os_names() and first != then.kmc:
        policy.append("[kmc] changes")
    stay = [one for one in then.vms if one.name in mine]
    changed = tuple(one for one in stay if _function(one) != _function(mine[one.name]))
    oses = tuple(one for one in stay if one.os != mine[one.name].os)
    ignored = tuple(unapplied(running, file))
    return Plan(then, added, removed, tuple(policy), changed, oses, ignored)


def _kept(mine: VmSpec, theirs: VmSpec) -> VmSpec:
    """A VM as it runs, with what the file says otherwise that a VM that runs can be."""
    kept = replace(mine, rate=theirs.rate)
    if mine.os is not None and theirs.os is not None:
        live = {name: getattr(theirs.os, name) for name in OS_CHANGES}
        return replace(kept, os=replace(mine.os, **live))
    fits = (mine.addresses, mine.mtu) == (theirs.addresses, theirs.mtu)  # a function's own
    if mine.nf is not None and theirs.nf is not None and fits:
        return replace(kept, nf=theirs.nf, settings=theirs.settings)
    return kept


def _equipped(running: HostSpec, file: HostSpec) -> HostSpec:
    """The running host with the equipment and the [kmc] that it has then: the file's, if it had no
    OSes; none, with its last OS; else its own equipment, and of [kmc] what can change."""
    if running.os_names() and not file.os_names():
        return replace(running, kmc=KmcSpec(), devices=(), nics=(), screens=(), sounds=())
    if not running.os_names():
        given = {name: getattr(file, name) for name in (*EQUIPMENT, "kmc", "may_take")}
        return replace(running, **given) if file.os_names() else running
    kmc = replace(file.kmc, foreground=running.kmc.foreground, held=running.kmc.held)
    if kmc.foreground not in (None, *file.os_names()):
        kmc = replace(kmc, foreground=file.kmc.foreground)
    return replace(running, kmc=kmc)


def _refuse_equipment(running: HostSpec, file: HostSpec) -> None:
    """Raises HostsimError if a host that has OSes, and keeps some, is to have other equipment."""
    for name in EQUIPMENT if running.os_names() and file.os_names() else ():
        if getattr(running, name) != getattr(file, name):
            raise HostsimError(
                "apply",
                f"{OF_HOST[name]} cannot change while the host has OSes: its equipment is theirs",
                "hostsim down, then up",
            )


def _refuse_os(mine: VmSpec, theirs: VmSpec) -> None:
    """Raises HostsimError if an OS is to change in what it cannot."""
    if not (mine.is_system or theirs.is_system):
        return
    kept = _kept(mine, theirs)
    found = [
        word
        for name, word in OF_VM.items()
        if name != "os" and getattr(kept, name) != getattr(theirs, name)
    ]
    if kept.os is None or theirs.os is None:
        found += ["[vm.os]"] if kept.os != theirs.os else []
    else:
        names = [one.name for one in fields(OsSpec)]
        found += [
            f"[vm.os] {name}"
            for name in names
            if getattr(kept.os, name) != getattr(theirs.os, name)
        ]
    if found:
        raise HostsimError(
            "apply",
            f"{mine.name} is an OS that runs, and its {', '.join(found)} cannot change",
            f"apply a file without {mine.name}, which ends it, and then one with it",
        )


def _function(one: VmSpec) -> tuple[Any, Any]:
    return one.nf, one.settings


def _changed(word: str, before: Iterable[Any], after: Iterable[Any]) -> list[str]:
    """How many of a list are new and gone; their places do not count, unless only these differ."""
    old, new = [_placeless(one) for one in before], [_placeless(one) for one in after]
    came = sum(one not in old for one in new)
    went = sum(one not in new for one in old)
    if came or went:
        return [f"{word}s: {came} new, {went} gone, {len(new)} in all"]
    return [] if old == new else [f"{word}s: in another order"]


def _placeless(one: Any) -> Any:
    return replace(one, index=0) if hasattr(one, "index") else one


def _kind(one: VmSpec) -> str:
    if one.endpoint:
        return "endpoint"
    return "OS" if one.is_system else "VM"


def _a(one: VmSpec) -> str:
    return "an endpoint" if one.endpoint else "a VM"
