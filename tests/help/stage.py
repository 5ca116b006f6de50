# SPDX-License-Identifier: Apache-2.0
"""The OSes of a screen test, their clients of the seat, and the screen."""

from help.desk import Desk
from help.rig import DEADLINE, Rig
from help.seat import SeatClient
from help.waiting import until

BLACK, GREEN, RED = "000000", "00aa00", "aa0000"


class Stage:
    """A host with OSes `work` and `play` and a screen; work is foreground."""

    def __init__(self, rig: Rig, desk: Desk) -> None:
        self.rig, self.desk = rig, desk
        self.clients: list[SeatClient] = []

    def client(self, name: str, colour: str | None = None) -> SeatClient:
        made = SeatClient(self.rig.vms[name], colour, DEADLINE)
        self.clients.append(made)
        return made

    def shows(self, colour: str) -> None:
        """The screen has this colour, all of it; who draws may be about to."""
        until(lambda: self.desk.only(colour), DEADLINE, f"the screen is {colour}")

    def flip(self, name: str) -> None:
        self.rig.flip(name, seen=False)

    def painted(self, name: str, colour: str) -> SeatClient:
        """A compositor of the foreground OS, which fills the screen."""
        made = self.client(name, colour)
        made.heard("painted")
        until(lambda: self.desk.only(colour), DEADLINE, f"the screen is {colour}")
        return made
