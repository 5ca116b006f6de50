# SPDX-License-Identifier: Apache-2.0
"""A pair of hands: makes an input device through uinput and works it as told on standard input.

    typist.py keyboard|mouse NAME

prints `NODE` of the device, then obeys, one line each, answering every line with one:

    tap KEY_A       press and release         -> ok
    down KEY_A      press                     -> ok
    up KEY_A        release                   -> ok
    rel REL_X 5     move                      -> ok
    leds            what is lit on the device -> LED_CAPSL ...
    flood 500 20    move by 1, 2, 3, ... along REL_X, so many times a second, from now on, but 20
                    times at most -> ok
    more 20         the flood may go on to 20 more than it has sent -> ok
    count           the last number the flood has sent
    calm            end the flood; the last number it sent

The device goes when standard input ends. Part of the tests and of the demo, not of the product.
"""

import os
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import closing

from evdev import InputDevice, UInput, ecodes

EVENT = struct.Struct("llHHi")
REPORT = EVENT.pack(0, 0, ecodes.EV_SYN, ecodes.SYN_REPORT, 0)

KEYS = [code for code in range(1, 249) if code in ecodes.KEY]
KINDS: dict[str, dict[int, Sequence[int]]] = {
    "keyboard": {
        ecodes.EV_KEY: KEYS,
        ecodes.EV_LED: [ecodes.LED_NUML, ecodes.LED_CAPSL, ecodes.LED_SCROLLL],
        ecodes.EV_REP: [],
        ecodes.EV_MSC: [ecodes.MSC_SCAN],
    },
    "mouse": {
        ecodes.EV_KEY: [ecodes.BTN_LEFT, ecodes.BTN_RIGHT, ecodes.BTN_MIDDLE],
        ecodes.EV_REL: [ecodes.REL_X, ecodes.REL_Y, ecodes.REL_WHEEL],
    },
}


def make(kind: str, name: str) -> UInput:
    """The device: vendor 0x1209, product 0x0001 (keyboard) or 0x0002."""
    product = 1 + list(KINDS).index(kind)
    return UInput(KINDS[kind], name=name, vendor=0x1209, product=product, version=1, phys="typist")


class Flood:
    """Numbered moves from a thread, up to `last`: the kernel keeps few for a slow reader."""

    def __init__(self, device: UInput, rate: float, last: int) -> None:
        self.count = 0
        self.last = last
        self._device = device
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            if self.count >= self.last:
                continue
            self._device.write(ecodes.EV_REL, ecodes.REL_X, self.count + 1)
            self._device.syn()
            self.count += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.count


floods: list[Flood] = []


def obey(device: UInput, place: int, line: str) -> str:
    """Do one line; the answer. place: a descriptor that only names the node."""
    word, *rest = line.split()
    if word == "flood":
        floods.append(Flood(device, float(rest[0]), int(rest[1])))
        return "ok"
    if word == "more":
        floods[-1].last = floods[-1].count + int(rest[0])
        return "ok"
    if word == "count":
        return str(floods[-1].count)
    if word == "calm":
        return str(floods.pop().stop())
    if word in ("tap", "down", "up"):
        code = ecodes.ecodes[rest[0]]
        values = {"tap": (1, 0), "down": (1,), "up": (0,)}[word]
        frames = (EVENT.pack(0, 0, ecodes.EV_KEY, code, value) + REPORT for value in values)
        os.write(device.fd, b"".join(frames))  # at once: a tap is never long enough to repeat
        return "ok"
    if word == "rel":
        device.write(ecodes.EV_REL, ecodes.ecodes[rest[0]], int(rest[1]))
        device.syn()
        return "ok"
    if word == "leds":
        with closing(InputDevice(f"/proc/self/fd/{place}")) as node:  # which may be away
            return " ".join(name for name, _ in node.leds(verbose=True))
    return f"unknown: {word}"


def main(kind: str, name: str) -> None:
    device = make(kind, name)
    place = os.open(device.device.path, os.O_PATH)
    print(device.device.path, flush=True)
    for line in sys.stdin:
        if line.strip():
            print(obey(device, place, line), flush=True)
    device.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
