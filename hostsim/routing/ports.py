# SPDX-License-Identifier: Apache-2.0
"""The classifier at the switch's ports, which come with it: it is kept there (guard.py)."""

from collections.abc import Mapping

from hostsim.routing.watch import Watch
from hostsim.switch import CLASSIFIER
from netns import tc


class Ports:
    """Of one switch. program: the classifier's descriptor, which stays the caller's."""

    def __init__(self, watch: Watch, program: int) -> None:
        self._watch = watch
        self._program = program

    def keep(self, ports: Mapping[int, str]) -> None:
        """Have the classifier kept at ports that it came with (`Switch.classifier`)."""
        for port, name in ports.items():
            self._watch.expect(port, tc.INGRESS, name, CLASSIFIER, self._program)

    def forget(self, port: int) -> None:
        """It goes, or another takes its place."""
        for side in (tc.INGRESS, tc.EGRESS, tc.ROOT):
            self._watch.forget(port, side)
