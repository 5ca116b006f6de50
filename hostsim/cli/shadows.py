# SPDX-License-Identifier: Apache-2.0
"""A warning about routes that never match."""

import sys
from typing import Any

SHADOWS = 10
"""Most routes without a match that are named one by one."""


def warn_of_shadows(spec: Any) -> None:
    """Say which routes can never match: the first ones, and how many more there are."""
    from hostsim.routing import matchtext

    found = list(matchtext.shadowed(spec.routes))
    for route, above in found[:SHADOWS]:
        print(
            f"hostsim: warning: [[route]] {route.index + 1} never matches: "
            f"[[route]] {above.index + 1} takes all of its packets",
            file=sys.stderr,
        )
    if len(found) > SHADOWS:
        print(f"hostsim: warning: and {len(found) - SHADOWS:,} more such routes", file=sys.stderr)
