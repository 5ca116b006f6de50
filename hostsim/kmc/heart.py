# SPDX-License-Identifier: Apache-2.0
"""Whether the agents live: a PING to each every BEAT seconds, and what has come of it."""

import asyncio
import logging
from collections.abc import Callable

from hostsim.kmc.agents import AgentPort
from hostsim.kmc.wire import Message, Type
from hostsim.vm import Vm
from netns import freezer

log = logging.getLogger("hostsim.kmc")

BEAT = 1.0
"""Seconds between two PINGs to each agent that runs; one that misses MISSED of them is hung."""

MISSED = 3


class Heart:
    """Beats from `start` to `stop`, in the daemon's loop. each: called with every beat."""

    def __init__(
        self, oses: dict[str, Vm], ports: dict[str, AgentPort], each: Callable[[], None]
    ) -> None:
        self._oses = oses
        self._ports = ports
        self._each = each
        self._unanswered = dict.fromkeys(oses, 0)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask all agents now, and again every BEAT seconds."""
        self._timer = asyncio.get_running_loop().call_later(BEAT, self.start)
        self._each()
        for name, vm in self._oses.items():
            if not vm.alive or freezer.asked(vm.cgroup) or self._ports[name].resident is None:
                self._unanswered[name] = 0
                continue
            if self._unanswered[name] == MISSED:
                log.warning("%s: its agent has not answered for %g s", name, MISSED * BEAT)
            self._unanswered[name] += 1
            self._ports[name].tell(Message(Type.PING))

    def stop(self) -> None:
        """Ask nobody any more. Twice is harmless."""
        if self._timer is not None:
            self._timer.cancel()

    def leave(self, name: str) -> None:
        """The OS leaves. Twice is harmless."""
        self._unanswered.pop(name, None)

    def answered(self, name: str) -> None:
        """The OS's agent lives, or is a new one."""
        self._unanswered[name] = 0

    def health(self, name: str) -> str:
        """Of an OS's agent: `ok`, `hung` (does not answer), `frozen` or `none`."""
        vm = self._oses[name]
        if self._ports[name].resident is None or not vm.alive:
            return "none"
        if freezer.asked(vm.cgroup):
            return "frozen"
        return "hung" if self._unanswered[name] > MISSED else "ok"
