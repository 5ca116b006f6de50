# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the host file, for editors that complete and check TOML by one. Pure.

    schema() -> the document (JSON Schema 2020-12)

It says which tables, keys, types and choices there are. The reader (file.py) stays the judge: it
also knows names that must exist, ranges and what cannot go together. tests/unit/test_schema.py
holds the two against each other.
"""

from typing import Any, get_args

from hostsim.hostfile.equipment import DEVICE_NUMBERS
from hostsim.hostfile.functions import IN_A_RULE, Verdict
from hostsim.hostfile.matches import CONTENTS, MATCH_KEYS
from hostsim.model import (
    Background,
    BypassMode,
    DeviceMode,
    Direction,
    Files,
    Held,
    Json,
    OnFailure,
    OnFull,
    Restart,
    RingMode,
    Users,
)
from hostsim.names import TCP_FLAGS

TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
NUMBER: Json = {"type": "integer"}
TEXTS: Json = {"type": "array", "items": TEXT}
TEXT_OR_TEXTS: Json = {"anyOf": [TEXT, TEXTS]}
SHARE: Json = {"type": ["number", "string"]}
SIZE: Json = {"type": ["integer", "string"]}
PORTS: Json = {
    "anyOf": [
        {"type": ["integer", "string"]},
        {"type": "array", "items": {"type": ["integer", "string"]}},
    ]
}
NAME: Json = {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"}

MATCH: dict[str, Json] = {
    "src": TEXT_OR_TEXTS,
    "dst": TEXT_OR_TEXTS,
    "proto": {"type": ["integer", "string"]},
    "sport": PORTS,
    "dport": PORTS,
    "from": TEXT_OR_TEXTS,
    "tcp_flags": TEXT | {"description": f"of {', '.join(TCP_FLAGS)}; ! in front: not set"},
    "dscp": NUMBER,
    "vlan": NUMBER,
    "ethertype": {"type": ["integer", "string"]},
    **dict.fromkeys(CONTENTS, TEXT_OR_TEXTS),
}
OF_PACKETS = tuple(key for key in MATCH_KEYS if key not in CONTENTS)
"""What a filter and a mirror match by."""
EQUIPMENT: dict[str, Json] = {
    **dict.fromkeys(("name", "phys", "interface", "screen", "sound"), TEXT),
    **dict.fromkeys(DEVICE_NUMBERS, NUMBER),
}
"""Of a [[device]]; each udev property is one too."""


def _one_of(literal: Any) -> Json:
    return {"enum": list(get_args(literal))}


def _table(keys: dict[str, Json], *required: str) -> Json:
    return {
        "type": "object",
        "properties": keys,
        "required": list(required),
        "additionalProperties": False,
    }


def _match(keys: tuple[str, ...]) -> Json:
    return _table({key: MATCH[key] for key in keys}) | {"minProperties": 1}


BOTH: dict[str, Json] = {
    "name": NAME,
    "address": TEXT_OR_TEXTS,
    "run": TEXT,
    "files": _one_of(Files),
    "share": TEXTS,
    "mac": TEXT,
    "log_size": SIZE,
    "mtu": NUMBER,
    "gateway": TEXT_OR_TEXTS,
    "routes": TEXTS,
    "offload": FLAG,
    "router": FLAG,
}
"""Keys of VMs and endpoints."""

VM: dict[str, Json] = {
    **BOTH,
    "memory": SIZE,
    "cpus": {"type": "number"},
    "pids": NUMBER,
    "nf": TEXT,
    "rate": TEXT,
    "restart": _one_of(Restart),
    "root": TEXT,
    "keep": TEXT,
    "boot": FLAG,
    "users": _one_of(Users),
    "containers": FLAG,
    "os": _table(
        {
            "background": _one_of(Background),
            "on_foreground": TEXT,
            "on_background": TEXT,
            "restart": _one_of(Restart),
            "uinput": FLAG,
            "seat": {"enum": [True, False, "0.7", "0.9"]},
        }
    ),
    "rule": {
        "type": "array",
        "items": _table({"match": _match(IN_A_RULE), "do": _one_of(Verdict)}, "match", "do"),
    },
    "default": _one_of(Verdict),
    "nat": _table({"ports": TEXT}),
    "source": _table({"flow": TEXT, "size": NUMBER, "rate": NUMBER, "count": NUMBER}, "flow"),
}

TABLES: dict[str, Json] = {
    "host": _table({"name": NAME}, "name"),
    "switch": _table({"uplinks": TEXTS, "take_default_route": FLAG}),
    "endpoint": _table(BOTH, "name"),
    "vm": _table(VM, "name"),
    "route": _table(
        {
            "match": _match(MATCH_KEYS),
            "through": TEXTS,
            "bypass": _one_of(BypassMode),
            "on_failure": _one_of(OnFailure),
            "on_full": _one_of(OnFull),
            "ring": _one_of(RingMode),
        },
        "match",
        "through",
    ),
    "filter": _table({"match": _match(OF_PACKETS)}, "match"),
    "mirror": _table({"match": _match(OF_PACKETS), "to": TEXT}, "match", "to"),
    "link": _table(
        {
            "of": TEXT,
            "direction": _one_of(Direction),
            "delay": TEXT,
            "jitter": TEXT,
            **dict.fromkeys(("loss", "duplicate", "reorder", "corrupt"), SHARE),
            "rate": TEXT,
            "seed": NUMBER,
            "down": FLAG,
        },
        "of",
    ),
    "device": _table(
        {
            "match": {"type": "object", "minProperties": 1, "properties": EQUIPMENT},
            "mode": _one_of(DeviceMode),
            "hotkey": TEXTS,
            "take_default_route": FLAG,
        },
        "match",
    ),
    "kmc": _table(
        {
            "foreground": TEXT,
            "release_timeout": TEXT,
            "may_flip": TEXTS,
            "fallback": TEXT,
            "held": _one_of(Held),
        }
    ),
}
"""What a host file may hold, by the name of the table."""

LISTS = ("endpoint", "vm", "route", "filter", "mirror", "link", "device")
"""Tables that a file may have several of: [[vm]]."""


def schema() -> Json:
    """The whole document."""
    properties = {
        name: {"type": "array", "items": table} if name in LISTS else table
        for name, table in TABLES.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hostsim host file",
        **_table(properties, "host"),
    }
