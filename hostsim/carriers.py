"""What happens to the ports of the virtual switch: VMs that are unplugged and plugged in again, and
links in the switch's namespace that hostsim has not made.

    Carriers(switch, dataplane, vms)   fileno(), on_readable(): the kernel's news of those links
    away(name)                      whether a VM's port has no carrier, or is held down

Runs in the thread of the daemon's loop.
"""

import asyncio
import logging
from collections.abc import Mapping

from hostsim.routing.dataplane import Dataplane
from hostsim.routing.holddown import Holddown
from hostsim.switch import Switch
from hostsim.vm import Vm
from netns.interfaces import Change, LinkMonitor

log = logging.getLogger("hostsim.host")


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
        if changes is None:  # some were not told
            links = self._switch.look()
            changes = [
                Change(vm.port, name, True, name in links.linked) for name, vm in self._vms.items()
            ]
            changes += [Change(number, name, True, True) for number, name in links.foreign.items()]
            self._foreign &= links.foreign.keys()
        for change in changes:
            if not change.there:
                self._foreign.discard(change.number)
            elif not self._switch.owns(change.number, change.name):
                self._remove_foreign(change.number, change.name)
        last = {change.number: change.up for change in changes}
        for vm in self._vms.values():
            if vm.port in last:
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
