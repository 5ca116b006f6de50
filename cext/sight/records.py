# SPDX-License-Identifier: Apache-2.0
"""A packet that a capture has seen, as Python has it; values of sight.h and of tc. Pure."""

from typing import NamedTuple

from cext.switch.records import Tuple

LEAVES, STRAIGHT, ARRIVES, LOST, RING, UNSENT = 1, 2, 3, 4, 5, 6
"""Where: enum hs_sight_place."""
UNSENT_REASONS = {2: "full-ring", 3: "too-long", 4: "full-eth0"}
"""Why a port lost a packet, enum hs_tap_end; the names are those of ACCOUNT_COUNTS."""
SNAP = 65535
"""Bytes of a frame at most."""


class Sight(NamedTuple):
    """One packet at one place. Fields are those of struct hs_sight."""

    time: int  # CLOCK_MONOTONIC, ns
    verdict: int
    vm: int
    flow: Tuple | None
    length: int
    reason: int
    to: int
    route: int
    place: int
    reply: bool
    frame: bytes
