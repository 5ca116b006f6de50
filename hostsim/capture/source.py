# SPDX-License-Identifier: Apache-2.0
"""The packets of a running host, each with what there is to say of it, while somebody looks.

The daemon says which programs and maps it has (`sight`); everything else happens here, in the
process of whoever looks. Killed at any moment it leaves nothing in the kernel.
"""

import contextlib
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cext.bpf.probe import descriptor_of
from cext.sight.records import RING, SNAP, UNSENT, Sight
from cext.sight.sight import Sights
from cext.sight.tap import Tap
from cext.sight.write import KEPT, TURN, Told, Writer, packet_id
from cext.switch.drops import reasons
from cext.switch.records import NO_ROUTE
from hostsim.capture import story
from hostsim.capture.story import Seen, Story, Wanted
from hostsim.errors import HostsimError, UsageError
from hostsim.hostfile import matches
from hostsim.hostfile.table import Table
from hostsim.routing import policy
from hostsim.routing.policy import First

NOT_LOOKED_AT = ("from", "tcp_flags", "dscp", *matches.CONTENTS)
"""Keys of a host file's match that tell more than a packet's flow does."""


def every(_: Sight) -> bool:
    """Lets all packets by."""
    return True


def parse_match(text: str | None) -> Wanted:
    """What `--match` lets by: packets of flows that a host file's match holds, and their replies.
    Raises HostsimError if it is none."""
    if text is None:
        return every
    inside = text.strip().removeprefix("{").removesuffix("}")
    try:
        data = tomllib.loads(f"match = {{ {inside} }}")
    except tomllib.TOMLDecodeError as error:
        hint = 'for example { proto = "tcp", dport = 80 }'
        raise UsageError("capture --match", f"{text!r} is no match: {error}", hint) from None
    unseen = [key for key in NOT_LOOKED_AT if key in data["match"]]
    if unseen:
        why = f"{', '.join(unseen)}: not looked at"
        raise UsageError("capture --match", why, "the rest of a host file's match is")
    match = matches.rule_match(Table("capture", 0, "--match", data))
    rows = list(policy.match_rows(match, 0))

    def wanted(sight: Sight) -> bool:
        flow = sight.flow
        return flow is not None and any(
            policy.first_match(rows, First(one)) is not None for one in (flow, flow.reversed())
        )

    return wanted


class Source:
    """See the module.

    answer: the daemon's `sight`
    vms: names; none: all
    wanted: packets that it does not let by are not told
    snap: bytes of a packet at most

    Raises HostsimError, OSError.
    """

    def __init__(
        self,
        answer: dict[str, Any],
        vms: Sequence[str] = (),
        wanted: Wanted = every,
        snap: int = SNAP,
    ) -> None:
        if not story.ETHER <= snap <= SNAP:
            raise UsageError(f"capture --snap {snap}", "is not allowed", f"{story.ETHER} to {SNAP}")
        self._names = {number: name for name, number in answer["numbers"].items()}
        unknown = [name for name in vms if name not in answer["numbers"]]
        if unknown:
            hint = f"there are: {', '.join(answer['numbers'])}"
            raise HostsimError(f"capture {unknown[0]}", "no such VM or endpoint", hint)
        self.snap = snap
        self._wanted = wanted
        self._offset = time.time_ns() - time.monotonic_ns()
        self._reasons = reasons()
        with contextlib.ExitStack() as stack:
            daemon = os.pidfd_open(answer["pid"])
            stack.callback(os.close, daemon)
            flows = descriptor_of(daemon, answer["flows"])
            stack.callback(os.close, flows)
            chosen = {name: answer["numbers"][name] for name in vms or answer["numbers"]}
            with contextlib.ExitStack() as undo:
                taps = []
                for name in chosen.keys() & answer["taps"].keys():
                    taps.append(_tap(daemon, answer["taps"][name], chosen[name]))
                    undo.callback(taps[-1].close)
                self._sights = Sights(flows, answer["homes"], chosen.values(), snap, taps)
                self._closing = undo.pop_all()
        self._closing.callback(self._sights.close)
        self._writer = Writer(self._offset)
        self._closing.callback(self._writer.close)

    def take(self, ms: int) -> Iterator[Seen]:
        """Wait so many milliseconds for packets; those that came. Those of different CPUs are not
        in the order of their times. Raises OSError."""
        for sight in self._sights.take(ms):
            if self._wanted(sight):
                told = story.tell(self._sights.decided(sight), self._names, self._reasons)
                when = sight.time + self._offset
                yield Seen(told, when, packet_id(sight.frame), sight.frame, sight.length)

    def write(
        self, ms: int, most: int | None, file: Callable[[Story], tuple[int, bytes, bytes]]
    ) -> Iterator[memoryview | bytes]:
        """Wait so many milliseconds for packets; the blocks of those that came, `most` packets at
        most, each piece good until the next. file: of packets with this story the number of their
        interface, their options, and a block that has to be there first. It is asked once for each
        kind of packet. Raises OSError."""

        def tell(sight: Sight) -> Told:
            known = self._sights.decided(sight)
            # One without a verdict of its own has today's; after a change of policy it has another.
            how = KEPT if sight.verdict or known.flow is None else TURN
            if sight.place in (RING, UNSENT) and known.route == NO_ROUTE:
                how = TURN
            if not self._wanted(sight):
                return Told(None, how=how)
            number, options, before = file(story.tell(known, self._names, self._reasons))
            return Told(number, options, how, before)

        return self._sights.write(ms, most, self._writer, tell)

    def written(self, interface: int) -> int:
        """Packets that `write` has written of an interface."""
        return self._writer.count(interface)

    def gathered(self) -> bool:
        """Whether there was anything, wanted or not, when packets were last waited for."""
        return self._sights.gathered > 0

    def lost(self) -> int:
        """Packets that could not be kept up with, since the start."""
        return self._sights.lost()

    def detach(self) -> None:
        """Look at no more packets; what was seen can still be taken. Twice is harmless."""
        self._sights.detach()

    def close(self) -> None:
        """Twice is harmless."""
        self._closing.close()


def _tap(daemon: int, number: int, vm: int) -> Tap:
    """The tap that is descriptor `number` of the daemon. Raises OSError."""
    fd = descriptor_of(daemon, number)
    try:
        return Tap(fd, vm)
    finally:
        os.close(fd)
