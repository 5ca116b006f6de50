# SPDX-License-Identifier: Apache-2.0
"""The C half of hostsim, and its BPF programs.

Only the modules of this package import the compiled extension `cext._native`; everything else
uses their Python interfaces. C functions return 0 or a value >= 0, or a negative errno, which
`check` turns into OSError.
"""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
"""Where the installed BPF objects (*.bpf.o) and hostsim-init stand."""
INCLUDE = HERE / "include"
"""The directory for the compiler of a plug-in: it finds `#include <hostsim/nf.h>` from here."""


def check(result: int, what: str) -> int:
    """Return `result`, or raise OSError if it is a negative errno; `what` says what failed."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result
