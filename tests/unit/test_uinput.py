# SPDX-License-Identifier: Apache-2.0
"""What uinput is told of a device whose description it would refuse."""

from hypothesis import given
from hypothesis import strategies as st

from netns.evdevices import shown
from netns.evioctl import ABS_MT_SLOT, Axis
from netns.uinput import NAME_MAX, SLOTS_MAX, fitting_axis, fitting_name

INT = st.integers(-(2**31), 2**31 - 1)


@given(st.binary(max_size=300).filter(lambda raw: b"\0" not in raw))
def test_a_name_fits(name: bytes) -> None:
    fit = fitting_name(name)
    assert 1 <= len(fit) <= NAME_MAX
    assert fit == name or name.startswith(fit) or not name


@given(st.text(min_size=1, max_size=300).filter(lambda text: "\0" not in text))
def test_a_name_is_not_cut_within_a_character(name: str) -> None:
    fit = fitting_name(name.encode(errors="replace"))
    assert name.encode(errors="replace").startswith(fit)
    fit.decode()


@given(st.binary(max_size=300))
def test_any_name_can_be_shown(name: bytes) -> None:
    line = shown(name)
    assert line.isprintable()
    line.encode()


@given(st.sampled_from((0, 40, ABS_MT_SLOT)), st.builds(Axis, INT, INT, INT, INT, INT, INT))
def test_an_axis_fits(code: int, axis: Axis) -> None:
    """uinput_validate_absinfo of drivers/input/misc/uinput.c, and input_mt_init_slots."""
    fit = fitting_axis(code, axis)
    low, high = fit.minimum, fit.maximum
    assert low <= high
    assert high - low > 2**31 - 1 or fit.flat <= high - low
    if code == ABS_MT_SLOT:
        assert 0 == low <= high < SLOTS_MAX
    elif axis.minimum <= axis.maximum and axis.flat <= axis.maximum - axis.minimum:
        assert fit == axis
