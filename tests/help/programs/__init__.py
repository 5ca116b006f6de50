# SPDX-License-Identifier: Apache-2.0
"""Programs that tests run as processes of their own: in a VM, which sees the same files, or on the
machine itself.

Each is a family of commands: `udp.py send HOST PORT COUNT`. It is given all it needs as arguments,
says so in its docstring, and imports nothing from here.
"""

import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent
"""The directory they are in."""


def program(name: str, *words: object) -> list[str]:
    """What runs one, by the tests' own Python; output is not held back."""
    return [sys.executable, "-Iu", str(PROGRAMS / f"{name}.py"), *map(str, words)]
