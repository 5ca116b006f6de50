# SPDX-License-Identifier: Apache-2.0
"""What is remembered of devices that were unplugged."""

from pathlib import Path

import pytest

from netns.evstate import KEPT, Memory, State, give_back

WHOLE = State((1, 2), (250, 33), (30, 48, 0), ((0, -1, 1, 0, 0, 0), (2, 0, 9, 1, 1, 3)))
FRESH = State(repeat=(250, 33))
MINE = State(leds=(1,), repeat=(300, 50))


@pytest.mark.parametrize("state", [WHOLE, State(), State(axes=((0, 0, 0, 0, 0, 0),))])
def test_a_state_is_in_the_journal_as_it_is(state: State) -> None:
    assert State.of_text(state.text()) == state


def test_a_device_that_is_gone_is_given_back_without_a_word(tmp_path: Path) -> None:
    give_back(str(tmp_path / "event31"), "key", WHOLE.text())


def test_a_device_that_comes_back_has_its_states_once() -> None:
    memory = Memory()
    memory.keep("keyboard", {"work": MINE, "play": FRESH}, FRESH)
    assert memory.take("mouse") == {}
    assert memory.take("keyboard") == {"work": MINE}
    assert memory.take("keyboard") == {}


def test_one_that_was_left_as_it_came_is_not_remembered() -> None:
    memory = Memory()
    memory.keep("keyboard", {"work": MINE}, FRESH)
    memory.keep("keyboard", {"work": FRESH}, FRESH)
    assert memory.take("keyboard") == {}


def test_only_so_many_are_remembered_the_last() -> None:
    memory = Memory()
    for number in range(KEPT + 1):
        memory.keep(str(number), {"work": MINE}, FRESH)
    assert memory.take("0") == {}
    assert memory.take("1") == {"work": MINE}
    assert memory.take(str(KEPT)) == {"work": MINE}
