# SPDX-License-Identifier: Apache-2.0
"""A hotkey over many devices, held against a model of three lines: 100,000 steps and more."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cext.input.chord import DEVICES, KEYS, Chord

DEVICE = st.integers(0, 3) | st.just(DEVICES - 1)
STEP = st.tuples(DEVICE, st.integers(0, 9), st.sampled_from(("down", "up", "up", "gone")))


@settings(max_examples=400, deadline=None)
@given(st.sets(st.integers(0, 7), min_size=1, max_size=KEYS), st.randoms(use_true_random=False))
def test_it_is_whole_when_each_key_is_down_somewhere(codes: set[int], draw: Random) -> None:
    chord = Chord(sorted(codes))
    down: set[tuple[int, int]] = set()
    for _ in range(300):
        device = draw.choice((0, 1, 2, DEVICES - 1))
        code = draw.randrange(10)
        before = {key for _, key in down} >= codes
        if draw.random() < 0.02:
            chord.gone(device)
            down = {one for one in down if one[0] != device}
            fires = False
        else:
            press = draw.random() < 0.5
            fires = chord.key(device, code, press)
            (down.add if press else down.discard)((device, code))
        whole = {key for _, key in down} >= codes
        assert chord.whole == whole
        assert fires == (whole and not before)


@given(st.lists(STEP, max_size=50))
def test_without_keys_there_is_no_hotkey(steps: list[tuple[int, int, str]]) -> None:
    chord = Chord([])
    for device, code, what in steps:
        if what == "gone":
            chord.gone(device)
        else:
            assert not chord.key(device, code, what == "down")
        assert not chord.whole


def test_a_device_out_of_range_is_none() -> None:
    chord = Chord([1])
    assert not chord.key(DEVICES, 1, True)
    chord.gone(DEVICES)
    assert chord.key(0, 1, True)
