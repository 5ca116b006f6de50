"""What is remembered of devices that were unplugged."""

from netns.evstate import KEPT, Memory, State

FRESH = State(repeat=(250, 33))
MINE = State(leds=(1,), repeat=(300, 50))


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
