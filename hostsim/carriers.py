# SPDX-License-Identifier: Apache-2.0
"""What happens to the ports of the virtual switch: VMs that are unplugged and plugged in again, and
links in the switch's namespace that hostsim has not made.

    Carriers(switch, dataplane, vms)   fileno(), on_readable(): the kernel's news of those links
    away(name)                      whether a VM's port has no carrier, or is held down

Runs in the thread of the daemon's loop. If the kernel had more news than its socket has room for, a
thread lists all links: with many VMs that takes as long as many events. News that come meanwhile
wait, and are held to be later than the list: the last news of a link say how it is, whenever the
list was made.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from hostsim.routing.dataplane import Dataplane
from hostsim.routing.holddown import Holddown
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.interfaces import Change, Counted, LinkMonitor

log = logging.getLogger("hostsim.host")

LATER = 4096
"""News that wait for a list of all links; if there are more, the list is made once more."""
AGAIN = 1.0
"""Seconds until a list that failed is tried again."""


class Carriers:
    """The owner of the switch's link monitor."""

    def __init__(self, switch: Switch, dataplane: Dataplane, vms: Mapping[str, Vm]) -> None:
        self._switch = switch
        self._dataplane = dataplane
        self._vms = vms
        self._monitor = LinkMonitor(switch.netns_fd)
        self._plugs: dict[str, Holddown] = {}  # VMs that were unplugged
        self._foreign: set[int] = set()  # links of the switch's that are to be removed
        self._hears = True
        self._looking = False  # a thread lists the links
        self._again = False  # it is to do so once more
        self._later: list[Change] = []  # news since it began

    def close(self) -> None:
        self._monitor.close()

    def fileno(self) -> int:
        return self._monitor.fileno()

    def away(self, name: str) -> bool:
        """Whether that VM counts as unplugged."""
        return name in self._plugs and self._plugs[name].away

    def forget(self, name: str) -> None:
        """That VM gets a new port."""
        self._plugs.pop(name, None)

    def hear_no_more(self) -> None:
        """A port that is held down stays so."""
        self._hears = False

    def on_readable(self) -> None:
        """Links of the switch's namespace came, went or changed their carrier."""
        changes = self._monitor.changes()
        if changes is None or (self._looking and len(self._later) + len(changes) > LATER):
            self._later.clear()
            self._look()  # some were not told
        elif self._looking:
            self._later += changes
        else:
            self._tell(changes)

    def _look(self) -> None:
        """Have all links listed; once more if that is asked for while it is done."""
        self._again = self._looking
        if self._looking:
            return
        self._looking = True
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._switch.looker()).add_done_callback(self._looked)

    def _looked(self, done: asyncio.Future[list[Counted]]) -> None:
        if done.cancelled():
            return
        self._looking, error = False, done.exception()
        if not self._hears:
            return
        if self._again:
            self._look()
        elif error is not None:
            log.error("switch: its links cannot be listed: %s; tried again", error)
            asyncio.get_running_loop().call_later(AGAIN, self._look_again)
        else:
            links = self._switch.told(done.result())
            changes = [
                Change(vm.port, name, True, name in links.linked) for name, vm in self._vms.items()
            ]
            changes += [Change(number, name, True, True) for number, name in links.foreign.items()]
            self._foreign &= links.foreign.keys()
            later, self._later = self._later, []
            self._tell(changes + later)

    def _look_again(self) -> None:
        if self._hears:
            self._look()

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not change.there:
                self._foreign.discard(change.number)
            elif not self._switch.owns(change.number, change.name):
                self._remove_foreign(change.number, change.name)
        last = {change.number: change.up for change in changes}
        for vm in self._vms.values():
            if vm.port in last and vm.netns_fd >= 0:  # one that is being made has none yet
                self._plugged(vm, last[vm.port])

    def _plugged(self, vm: Vm, up: bool) -> None:
        """A VM's port has a carrier, or not. One that is back waits for as long as its flapping
        makes it wait: each change has everybody's flows judged again."""
        name, loop = vm.spec.name, asyncio.get_running_loop()
        plug = self._plugs.setdefault(name, Holddown())
        before, waited = plug.away, plug.due
        plug.saw("" if up else "unplugged", loop.time())
        if plug.away and not before:
            log.error("%s: its link is lost", name)
            self._dataplane.link_lost(name)
        elif before and not plug.away:
            log.info("%s: its link is back", name)
            if vm.alive:
                self._dataplane.link_back(name)
        elif plug.due is not None and plug.due != waited:
            loop.call_at(plug.due, self._hold_is_over, vm, plug.due)

    def _hold_is_over(self, vm: Vm, due: float) -> None:
        """Unless the port has lost its carrier meanwhile."""
        plug = self._plugs.get(vm.spec.name)
        if self._hears and plug is not None and plug.due == due:
            self._plugged(vm, True)

    def _remove_foreign(self, index: int, name: str) -> None:
        """A link in the switch's namespace that hostsim has not made would be a way past every
        route and filter. Told and tried once for each."""
        if index in self._foreign:
            return
        self._foreign.add(index)
        log.error("switch: link %r is not of this host: removed", name)
        removed = asyncio.get_running_loop().run_in_executor(None, self._switch.remover(index))

        def told(done: asyncio.Future[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                log.error("switch: link %r cannot be removed: %s", name, done.exception())

        removed.add_done_callback(told)
