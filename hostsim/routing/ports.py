# SPDX-License-Identifier: Apache-2.0
"""The classifier at the switch's ports: it is put there, and kept there (guard.py)."""

import errno
from collections.abc import Mapping

from hostsim.routing.watch import Watch
from hostsim.switch import CLASSIFIER, Switch
from netns import tc
from netns.links import Packs


class Ports:
    """Of one switch. program: the classifier's descriptor, which stays the caller's."""

    def __init__(self, switch: Switch, watch: Watch, program: int) -> None:
        self._switch = switch
        self._watch = watch
        self._program = program

    def classify(self, ports: Mapping[int, str]) -> None:
        """Have the classifier at these ports, which were there before it was, and have it kept
        there. Each port's number, and whose it is. Raises OSError."""

        def fill(batch: Packs) -> None:
            for port in ports:
                tc.add_program(batch, port, self._program, CLASSIFIER, tc.INGRESS)

        self._switch.rtnl.pack(fill, (errno.EEXIST,))
        self.keep(ports)

    def keep(self, ports: Mapping[int, str]) -> None:
        """Have the classifier kept at ports that it came with (`Switch.classifier`)."""
        for port, name in ports.items():
            self._watch.expect(port, tc.INGRESS, name, CLASSIFIER, self._program)

    def forget(self, port: int) -> None:
        """It goes, or another takes its place."""
        for side in (tc.INGRESS, tc.EGRESS, tc.ROOT):
            self._watch.forget(port, side)
