# SPDX-License-Identifier: Apache-2.0
"""The equipment of a host file: [[device]] and [kmc].

    nic(table, match, taken) -> str          a network interface that goes to the foreground OS
    screen(table, match) -> str              a display's card that goes to the foreground OS
    sound(table, match) -> str               a sound card that plays what the foreground OS plays
    device(index, table, match) -> DeviceSpec
    kmc(table, oses) -> KmcSpec

Each raises HostFileError.
"""

import re
from typing import Any

from hostsim.hostfile.table import NAME_SHOWN, Table, is_link, is_number, is_reserved
from hostsim.model import DeviceMode, DeviceSpec, Held, KmcSpec

DEVICE_NUMBERS = ("vendor", "product")
HOTKEY_MAX = 8
"""HS_FWD_CHORD (cext/input/forward.h)."""

_KEY = re.compile(r"(KEY|BTN)_[A-Z0-9_]+")
_CARD = re.compile(r"\*|card([0-9]{1,3}|\*)", re.ASCII)
_SOUND = re.compile(r"[A-Za-z0-9_*?]{1,15}", re.ASCII)
_TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|s)")


def _is_key(name: str) -> bool:
    from netns.evdevices import key_code  # evdev: only for hosts with a hotkey

    try:
        key_code(name)
    except KeyError:
        return False
    return True


def nic(table: Table, match: dict[str, Any], taken: list[str]) -> str:
    """A network interface as equipment: its name on this machine, and nothing else."""
    name = match["interface"]
    if len(match) > 1:
        table.fail("match has interface and other keys", "an interface is meant by its name")
    if not isinstance(name, str) or not is_link(name):
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


def screen(table: Table, match: dict[str, Any]) -> str:
    """A display as equipment: a pattern of its card's name, and nothing else."""
    return _pattern(
        table,
        match,
        "screen",
        _CARD,
        ("a screen is meant by its card's name", "card"),
        'a name in /dev/dri such as "card0", or "*"',
    )


def sound(table: Table, match: dict[str, Any]) -> str:
    """A sound card as equipment: a pattern of its name, and nothing else."""
    return _pattern(
        table,
        match,
        "sound",
        _SOUND,
        ("a sound card is meant by its name", "sound card"),
        'the first word of a card in /proc/asound/cards such as "PCH" or "card0", or "*"',
    )


def _pattern(
    table: Table,
    match: dict[str, Any],
    key: str,
    allowed: re.Pattern[str],
    said: tuple[str, str],
    hint: str,
) -> str:
    """The value of a match that has this key alone. said: why it stands alone, and the kind of
    thing that it names; hint: the values that are allowed."""
    pattern, (alone, kind) = match[key], said
    if len(match) > 1:
        table.fail(f"match has {key} and other keys", alone)
    if not isinstance(pattern, str) or not allowed.fullmatch(pattern):
        table.fail(f"match: {key} = {str(pattern)[:NAME_SHOWN]!r} names no {kind}", hint)
    table.done()
    return pattern


def device(index: int, table: Table, match: dict[str, Any] | None) -> DeviceSpec:
    if not match:
        table.fail(
            "match is missing or empty",
            "name, vendor, product, phys or a udev property; or interface; or screen; or sound",
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
            table.fail(f"hotkey: {key!r} is no key", "names are KEY_… or BTN_…, as evtest shows")
    if len(hotkey) > HOTKEY_MAX or len(set(hotkey)) != len(hotkey):
        table.fail(
            f"hotkey has {len(hotkey)} keys, or one twice", f"it has at most {HOTKEY_MAX} keys"
        )
    mode = table.choice("mode", DeviceMode, "mirror")
    table.done()
    return DeviceSpec(index, dict(match), mode, tuple(hotkey))


def kmc(table: Table, oses: list[str]) -> KmcSpec:
    """[kmc]. oses: the names of the host's operating systems, in order."""
    foreground = _os_name(table, "foreground", oses)
    fallback = _os_name(table, "fallback", oses)
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
        timeout = float(match.group(1)) / (1000 if match.group(2) == "ms" else 1) if match else 0
        if not 0.001 <= timeout <= 60:
            table.fail(f"release_timeout = {text!r} is not allowed", f"it is {allowed}")
    held = table.choice("held", Held, "lift")
    table.done()
    may = KmcSpec.may_flip if may_flip is None else tuple(may_flip)
    return KmcSpec(foreground or (oses[0] if oses else None), timeout, may, fallback, held)


def _os_name(table: Table, key: str, oses: list[str]) -> str | None:
    name: str | None = table.take(key, str, "the name of an OS")
    if name is not None and name not in oses:
        table.fail(
            f"{key} = {name!r} is no operating system of this host",
            f"operating systems (VMs with [vm.os]): {', '.join(oses) or 'none'}",
        )
    return name
