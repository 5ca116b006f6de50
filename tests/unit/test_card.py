# SPDX-License-Identifier: Apache-2.0
"""What is left of a picture whose connectors have gone."""

from netns.card import Values, left

LAPTOP, DOCK = 31, 32
CRTCS = {LAPTOP: 41, DOCK: 42}
PLANES = {LAPTOP: 51, DOCK: 52}


def picture() -> Values:
    """One on each of two connectors, with a gamma of its own."""
    found: Values = []
    for connector, crtc in CRTCS.items():
        plane = PLANES[connector]
        found += [
            (crtc, 1, "ACTIVE", 1),
            (crtc, 2, "MODE_ID", 100 + crtc),
            (crtc, 3, "GAMMA_LUT", 200 + crtc),
            (connector, 4, "CRTC_ID", crtc),
            (plane, 5, "FB_ID", 300 + plane),
            (plane, 6, "CRTC_ID", crtc),
            (plane, 7, "SRC_W", 640),
        ]
    return found


def everything() -> set[int]:
    return {number for number, *_ in picture()}


def test_all_is_left_of_what_is_there() -> None:
    assert left(picture(), everything()) == picture()


def test_a_crtc_without_a_connector_is_off_with_its_planes() -> None:
    found = {
        (number, name): value for number, _, name, value in left(picture(), everything() - {DOCK})
    }
    was = {(number, name): value for number, _, name, value in picture()}
    crtc, plane = CRTCS[DOCK], PLANES[DOCK]
    changed = {key: value for key, value in found.items() if was[key] != value}
    ended = [(crtc, "ACTIVE"), (crtc, "MODE_ID"), (plane, "FB_ID"), (plane, "CRTC_ID")]
    assert changed == dict.fromkeys(ended, 0)
    assert set(was) - set(found) == {(DOCK, "CRTC_ID")}


def test_a_crtc_that_lights_two_connectors_stays_on_for_the_other() -> None:
    twins = [(n, p, name, 41 if n == DOCK else v) for n, p, name, v in picture()]
    twins = [one for one in twins if one[0] not in (CRTCS[DOCK], PLANES[DOCK])]
    assert left(twins, everything() - {DOCK}) == [one for one in twins if one[0] != DOCK]


def test_what_was_off_stays_off() -> None:
    dark = [(n, p, name, 0 if name != "SRC_W" else v) for n, p, name, v in picture()]
    assert left(dark, everything() - {DOCK}) == [one for one in dark if one[0] != DOCK]
