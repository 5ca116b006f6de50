# SPDX-License-Identifier: Apache-2.0
"""The LEDs of input devices, and who else sets them: the machine's console (input-leds and the
kbd-* LED triggers, Documentation/leds/leds-class.rst).

Whenever any keyboard is plugged in, or CapsLock is pressed on any, the console sets the LEDs of all
of them as its own state is. A device that belongs to an OS is cut off from that:

    found = triggers(sysname)    by file; none if input-leds is not there (yet), or the device
    cut(found)                   which turns the LEDs off
    join(found)                  undone; a device that is gone is no error
"""

import contextlib
import re
from pathlib import Path

INPUT = Path("/sys/class/input")


def triggers(sysname: str) -> dict[str, str]:
    """What sets the LEDs of the evdev node `sysname` by itself: trigger by file."""
    found: dict[str, str] = {}
    for file in (INPUT / sysname / "device").resolve().glob("*::*/trigger"):
        with contextlib.suppress(OSError):  # unplugged
            chosen = re.search(r"\[(.+)\]", file.read_text())
            if chosen is not None and chosen[1] != "none":
                found[str(file)] = chosen[1]
    return found


def cut(found: dict[str, str]) -> None:
    """Nothing sets these LEDs by itself any more."""
    join(dict.fromkeys(found, "none"))


def join(found: dict[str, str]) -> None:
    """Each has the trigger it had."""
    for file, trigger in found.items():
        with contextlib.suppress(OSError):
            Path(file).write_text(trigger)
