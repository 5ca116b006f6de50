# SPDX-License-Identifier: Apache-2.0
"""The desk of the test VM (scripts/testvm.py): the person in front of the guest's screen
(--display) and loudspeaker (--audio), at the command's service.

A line of JSON on port 4 is an order, a line of JSON is the answer:

    {"look": null}           -> {"size": [w, h], "colours": {"00aa00": pixels, ...}}
    {"look": "a/path.png"}   the same, and the picture is kept, below the project's directory
    {"type": ["a", "ret"]}   keys by QEMU's names, one after the other
    {"hear": n, "tones": [hz, ...]}
                             -> {"windows": [[a, ...], ...], "next": m}: what the loudspeaker
                             played from window n on (-1: now), 10 ms each: the amplitude of
                             each tone, a multiple of 100 Hz (left side, 32767 at most)

What is to be seen and heard is what QEMU says: nothing in the guest has a hand in it.
"""

import cmath
import contextlib
import json
import operator
import os
import socket
import tempfile
import threading
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[..., object]
"""A command of QEMU's monitor, and its arguments by name. What it answers."""


class Desk:
    """See the module. ask: QEMU's monitor (Guest.ask); wave: the file into which QEMU writes what
    is played; root: the project's directory."""

    DEVICES = ("virtio-gpu-pci", "virtio-keyboard-pci", "virtio-mouse-pci")
    SOUND = ("intel-hda", "hda-output,audiodev=loudspeaker")
    RATE = 48000
    WINDOW = RATE // 100
    WINDOWS = 1000  # most in one answer
    COLOURS = 6  # those with the most pixels are named

    def __init__(self, ask: Ask, port: socket.socket, wave: int, root: Path) -> None:
        self._ask = ask
        self._port = port
        self._wave = wave
        self._root = root
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._port.makefile("rw", encoding="utf-8") as port:
            for line in port:
                try:
                    answer = self._do(json.loads(line))
                except (OSError, ValueError, KeyError, AttributeError) as error:
                    answer = {"error": str(error)}
                port.write(json.dumps(answer) + "\n")
                port.flush()

    def _do(self, order: dict[str, Any]) -> object:
        if "type" in order:
            for key in order["type"]:
                self._ask("send-key", keys=[{"type": "qcode", "data": key}])
            return {}
        if "hear" in order:
            return heard(self._wave, order["hear"], order["tones"])
        name = order["look"]
        if isinstance(name, str):
            path = (self._root / name).resolve()
            if not path.is_relative_to(self._root):
                return {"error": "outside the project's directory"}
            path.parent.mkdir(parents=True, exist_ok=True)
            self._ask("screendump", filename=str(path), format="png")
        with tempfile.NamedTemporaryFile(suffix=".ppm") as shot:
            return self._ask("screendump", filename=shot.name) or colours(shot.read())


def heard(wave: int, start: int, tones: list[int]) -> object:
    """Tones in a wave file (44 bytes of header, two sides of 16 bits) that QEMU is writing."""
    size = Desk.WINDOW
    there = max(os.fstat(wave).st_size - 44, 0) // (4 * size)
    start = there if start < 0 else min(start, there)
    count = min(there - start, Desk.WINDOWS)
    left = array("h", os.pread(wave, 4 * size * count, 44 + 4 * size * start))[0::2]
    waves = [
        [cmath.exp(2j * cmath.pi * hz * n / Desk.RATE) / size * 2 for n in range(size)]
        for hz in tones
    ]
    windows = []
    for at in range(0, count * size, size):
        part = left[at : at + size]
        windows.append([round(abs(sum(map(operator.mul, part, wave)))) for wave in waves])
    return {"windows": windows, "next": start + count}


def colours(ppm: bytes) -> object:
    """Size of a picture (PPM, P6), and the colours with the most pixels."""
    kind, width, height, _ = ppm.split(maxsplit=4)[:4]
    columns, rows = int(width), int(height)
    pixels = ppm[-3 * columns * rows :]
    lines = Counter(pixels[at : at + 3 * columns] for at in range(0, len(pixels), 3 * columns))
    counted: Counter[bytes] = Counter()
    for line, times in lines.items():
        if line[:3] * columns == line:
            counted[line[:3]] += columns * times
            continue
        for at in range(0, len(line), 3):
            counted[line[at : at + 3]] += times
    named = {colour.hex(): number for colour, number in counted.most_common(Desk.COLOURS)}
    return {"kind": kind.decode(), "size": [columns, rows], "colours": named}
