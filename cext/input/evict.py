# SPDX-License-Identifier: Apache-2.0
"""Takes input devices from the machine's own programs. Wraps input/evict.h."""

from collections.abc import Sequence

from cext import check
from cext._native import lib


def evict(devices: Sequence[int]) -> int:
    """Revoke what any other process has open of these devices (st_rdev); how many files. Raises
    OSError."""
    return check(
        lib.hs_evict(list(devices), len(devices)), "input devices of the machine's programs"
    )
