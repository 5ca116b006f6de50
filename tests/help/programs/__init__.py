"""Programs that tests run as processes of their own, by path: in a VM, which sees the same files,
or on the machine itself. Each is given all it needs as arguments, and imports nothing from here."""

from pathlib import Path

PROGRAMS = Path(__file__).parent
"""The directory they are in."""
