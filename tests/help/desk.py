# SPDX-License-Identifier: Apache-2.0
"""What is to be seen and heard of the test VM, by QEMU's own account (scripts/testvmdesk.py)."""

import json
from pathlib import Path
from typing import Any


class Desk:
    """The port to the person in front of it. Closed by `close`."""

    def __init__(self) -> None:
        (port,) = Path("/dev").glob("vport*p4")
        self._port = port.open("r+b", buffering=0)

    def ask(self, **order: Any) -> dict[str, Any]:
        """See testvmdesk.py."""
        self._port.write(json.dumps(order).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            data += self._port.read(65536)
        answer: dict[str, Any] = json.loads(data)
        assert "error" not in answer, answer
        return answer

    def colours(self, keep: str | None = None) -> dict[str, int]:
        """How many pixels there are of each colour, most first. keep: a path for the picture, below
        the project's directory."""
        found: dict[str, int] = self.ask(look=keep)["colours"]
        return found

    def only(self, colour: str) -> bool:
        """Whether the whole screen has this colour."""
        return list(self.colours()) == [colour]

    def hear(self, start: int, *tones: int) -> tuple[list[list[int]], int]:
        """What was played from this 10-ms window on (-1: now): each tone's amplitude in each, and
        which window comes next."""
        answer = self.ask(hear=start, tones=list(tones))
        return answer["windows"], answer["next"]

    def size(self) -> list[int]:
        """Width and height in pixels."""
        found: list[int] = self.ask(look=None)["size"]
        return found

    def close(self) -> None:
        self._port.close()
