# SPDX-License-Identifier: Apache-2.0
"""An OS that joins a running host has the screen in its turn, and leaves nothing of it there."""

import pytest

from help.rig import DEADLINE
from help.stage import GREEN, RED, Stage
from help.waiting import until
from hostsim.model import OsSpec

pytestmark = [pytest.mark.screen, pytest.mark.timeout(240)]


def test_one_that_joins_has_the_screen_in_its_turn(stage: Stage) -> None:
    """It leaves while its compositor has the seat; another one of its name begins with black."""
    stage.painted("work", GREEN)
    for _ in range(2):
        vm = stage.rig.join("rest", OsSpec())
        (screen,) = stage.rig.devices()
        assert screen["states"]["rest"] == {"seat": False, "open": False, "picture": False}
        stage.client("rest", RED)
        stage.flip("rest")
        stage.shows(RED)
        stage.flip("work")
        stage.shows(GREEN)
        until(lambda: stage.rig.devices()[0]["states"]["rest"]["picture"], DEADLINE, "it is kept")
        stage.rig.leave("rest")
        (screen,) = stage.rig.devices()
        assert screen["states"].keys() == {"work", "play"}
        stage.clients.pop().end()
        vm.stop()
    stage.flip("play")
    stage.flip("work")
    stage.shows(GREEN)
