# SPDX-License-Identifier: Apache-2.0
"""What a program does with the input devices of its OS, by python-evdev; answers are JSON, a line
each. The device is the OS's first one, but for those whose names have WORD in them.

    evdevs.py held                         the keys that are down
    evdevs.py light [LED]                  light an LED, Caps Lock's if none is named; what is lit
    evdevs.py leds                         the LEDs that are lit
    evdevs.py repeat [DELAY RATE]          change autorepeat; what it is
    evdevs.py calibrate [MIN MAX FUZZ FLAT]  change the X axis; what it is
    evdevs.py write TYPE CODE VALUE        one event, and a SYN
    evdevs.py slots                        the contact of each touch slot
    evdevs.py keycode [KEY]                change the key of scan code 30; what it is
    evdevs.py forge                        KEY_B down and up, with write(2)
    evdevs.py rumble WORD                  upload an effect and play it, until standard input ends
    evdevs.py lid WORD                     whether it is closed
    evdevs.py follow NODE                  `ready`, and then `TYPE CODE VALUE` of all that is read
    evdevs.py describe                     what each device says it is, by name
    evdevs.py udev                         `NODE INITIALIZED ID_INPUT` of all that udev lists
"""

import fcntl
import json
import struct
import sys
from collections.abc import Callable

from evdev import InputDevice, ecodes, ff, list_devices

GET_SLOTS = 0x8014450A  # EVIOCGMTSLOTS of 20 bytes
GET_KEYCODE = 0x80084504
SET_KEYCODE = 0x40084504
GET_SWITCHES = 0x8004451B  # EVIOCGSW of 4 bytes
SLOTS = struct.Struct("5i")
KEYCODE = struct.Struct("II")


def tell(found: object) -> None:
    print(json.dumps(found))


def every() -> list[InputDevice[str]]:
    return [InputDevice(path) for path in list_devices()]


def first() -> InputDevice[str]:
    return InputDevice(list_devices()[0])


def named(word: str) -> InputDevice[str]:
    return next(one for one in every() if word in one.name)


def held() -> None:
    tell(first().active_keys())


def light(led: str = "LED_CAPSL") -> None:
    device = first()
    device.set_led(ecodes.ecodes[led], 1)
    tell(device.leds())


def leds() -> None:
    tell(first().leds())


def repeat(*values: str) -> None:
    device = first()
    if values:
        delay, rate = map(int, values)
        device.repeat = (delay, rate)
    tell(list(device.repeat))


def calibrate(*values: str) -> None:
    device = first()
    if values:
        low, high, fuzz, flat = map(int, values)
        device.set_absinfo(ecodes.ABS_X, min=low, max=high, fuzz=fuzz, flat=flat)
    tell(list(device.absinfo(ecodes.ABS_X))[1:])


def write(kind: str, code: str, value: str) -> None:
    device = first()
    device.write(int(kind), int(code), int(value))
    device.syn()
    tell(True)


def slots() -> None:
    found = bytearray(SLOTS.pack(ecodes.ABS_MT_TRACKING_ID, 0, 0, 0, 0))
    device = first()  # which closes its descriptor when nobody has it any more
    fcntl.ioctl(device.fd, GET_SLOTS, found)
    tell(SLOTS.unpack(found)[1:])


def keycode(*change: str) -> None:
    device = first()
    for key in change:
        fcntl.ioctl(device.fd, SET_KEYCODE, KEYCODE.pack(30, int(key)))
    found = bytearray(KEYCODE.pack(30, 0))
    fcntl.ioctl(device.fd, GET_KEYCODE, found)
    tell(KEYCODE.unpack(found)[1])


def forge() -> None:
    with open(list_devices()[0], "wb", buffering=0) as node:
        event = struct.Struct("llHHi")
        down, up = ((ecodes.EV_KEY, ecodes.KEY_B, value) for value in (1, 0))
        events = (down, (0, 0, 0), up, (0, 0, 0))
        node.write(b"".join(event.pack(0, 0, *one) for one in events))


def rumble(word: str) -> None:
    device = named(word)
    strong = ff.EffectType(ff_rumble_effect=ff.Rumble(0x8000, 0x4000))
    effect = ff.Effect(ecodes.FF_RUMBLE, -1, 0, ff.Trigger(0, 0), ff.Replay(1000, 0), strong)
    number = device.upload_effect(effect)
    print("up", number)
    device.write(ecodes.EV_FF, number, 1)
    print("playing")
    sys.stdin.read()


def lid(word: str) -> None:
    found = bytearray(4)
    device = named(word)
    fcntl.ioctl(device.fd, GET_SWITCHES, found)
    tell(bool(found[0] & 1))


def follow(node: str) -> None:
    device = InputDevice(node)
    print("ready")
    for event in device.read_loop():
        print(event.type, event.code, event.value)


def describe() -> None:
    found = {}
    for device in every():
        able = {
            str(kind): [[c[0], list(c[1])] if isinstance(c, tuple) else c for c in codes]
            for kind, codes in device.capabilities().items()
        }
        effects = device.ff_effects_count
        found[device.name] = [able, list(device.info), device.phys, device.input_props(), effects]
    tell(found)


def udev() -> None:
    import pyudev

    for device in pyudev.Context().list_devices(subsystem="input"):
        if device.device_node:
            marked = device.properties.get("ID_INPUT")
            print(device.device_node, device.is_initialized, marked)


COMMANDS: dict[str, Callable[..., None]] = {
    "held": held, "light": light, "leds": leds, "repeat": repeat, "calibrate": calibrate,
    "write": write, "slots": slots, "keycode": keycode, "forge": forge, "rumble": rumble,
    "lid": lid, "follow": follow, "describe": describe, "udev": udev,
}  # fmt: skip
COMMANDS[sys.argv[1]](*sys.argv[2:])
