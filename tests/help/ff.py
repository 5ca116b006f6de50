# SPDX-License-Identifier: Apache-2.0
"""The hardware's side of force feedback, for devices that tests make through uinput."""

from evdev import UInput, ecodes

from help.rig import DEADLINE
from help.waiting import until


def answer(pad: UInput, what: int) -> list[int]:
    """Serve one request as the hardware's driver would; the strengths that were uploaded."""
    found: list[int] = []

    def served() -> bool:
        while (event := pad.read_one()) is not None:
            if event.type != ecodes.EV_UINPUT:
                continue
            if event.code == ecodes.UI_FF_UPLOAD:
                upload = pad.begin_upload(event.value)
                upload.retval = 0
                found.append(upload.effect.u.ff_rumble_effect.strong_magnitude)
                pad.end_upload(upload)
            else:
                erase = pad.begin_erase(event.value)
                erase.retval = 0
                pad.end_erase(erase)
            return event.code == what
        return False

    until(served, DEADLINE, "the request")
    return found


def next_ff(pad: UInput) -> int:
    values: list[int] = []

    def seen() -> bool:
        while (event := pad.read_one()) is not None:
            if event.type == ecodes.EV_FF and event.code < 0x60:
                values.append(event.value)
        return bool(values)

    until(seen, DEADLINE, "the effect is started")
    return values[0]
