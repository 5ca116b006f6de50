# SPDX-License-Identifier: Apache-2.0
"""The daemon's control protocol: one JSON object a line, a request and its answer.

    -> {"op": "flip", "os": "play"}
    <- {"ok": true, "result": {...}}
    <- {"ok": false, "error": {"what": …, "why": …, "hint": …, "status": 1}}

A long list comes in pieces, and the last message has none:

    <- {"ok": true, "rows": [{...}, ...]}
    <- {"ok": true, "rows": [], "end": true}

The socket is /run/hostsim/HOST/control.sock, mode 0600. Pure but for the paths' names.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostsim.errors import HostsimError, UsageError

RUN = Path("/run/hostsim")
BENCHES = Path("/run/hostsim-bench")
"""A folder for each thing that a bench has set up: lock and journal, as a host's."""
LINE_MAX = 64 << 20
"""Bytes of one line at most."""
ROWS = 500
"""Of a list in one message."""
TOO_MANY = HostsimError(
    "control socket", "this process, or all together, have too many connections", "ask again"
)
"""A connection is refused (clients.py), and nothing that it asked was done."""
LEVELS = ("debug", "info", "warning", "error")
"""What a daemon's log may be asked to have at least."""


def folder(host: str) -> Path:
    """Everything of one host that is a file: lock, journal, log, control.sock, left."""
    return RUN / host


def left(host: str) -> Path:
    """What a daemon could not remove when it ended, a line each; not there if it could."""
    return folder(host) / "left"


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of one line. Raises HostsimError if it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise HostsimError("control socket", "a line that is no JSON object")
    return message


def text(request: dict[str, Any], key: str) -> str:
    """What a request has under a key. Raises HostsimError if it is no text."""
    value = request.get(key)
    if not isinstance(value, str):
        raise HostsimError(str(request.get("op")), f"the request has no {key}")
    return value


def pieces(rows: list[Any]) -> Iterator[dict[str, Any]]:
    """The messages of a list."""
    for at in range(0, len(rows), ROWS):
        yield {"ok": True, "rows": rows[at : at + ROWS]}
    yield {"ok": True, "rows": [], "end": True}


def success(result: Any) -> dict[str, Any]:
    return {"ok": True, "result": result}


def failure(error: HostsimError) -> dict[str, Any]:
    return {
        "ok": False,
        "error": {
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "status": error.status,
        },
    }


def refused(answer: dict[str, Any]) -> bool:
    """Whether an answer says TOO_MANY."""
    return answer == failure(TOO_MANY)


def result(answer: dict[str, Any]) -> Any:
    """The result of an answer. Raises the error it carries."""
    if answer.get("ok"):
        return answer.get("result")
    error = answer.get("error")
    if not isinstance(error, dict):
        raise HostsimError("control socket", "an answer that is none")
    kind = UsageError if error.get("status") == UsageError.status else HostsimError
    raise kind(str(error.get("what")), str(error.get("why")), str(error.get("hint") or ""))
