"""Which device belongs to which driver: what is plugged in, at the start and later.

A device goes to the driver that the first matching `[[device]]` names. One that no table means is
the machine's, and so are our own clones.
"""

import asyncio
import logging
from collections.abc import Callable

from hostsim.errors import HostsimError
from hostsim.kmc.direct import Direct
from hostsim.kmc.equipment import Equipment, first_match
from hostsim.kmc.mirror import Mirror
from hostsim.kmc.osnodes import OsNodes
from hostsim.model import HostSpec
from netns.evdevices import Source
from netns.hotplug import Hotplug, InputNode
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")


class Plugs:
    """The two drivers of input devices, fed by the kernel's hotplug events. All methods run in the
    daemon's loop; `close` is for the end, and twice is harmless.

    hotkey: called when a device's hotkey is pressed.
    """

    def __init__(
        self,
        spec: HostSpec,
        nodes: dict[str, OsNodes],
        hotkey: Callable[[], None],
        journal: Journal,
    ) -> None:
        held = spec.kmc.held
        self._devices = spec.devices
        self._readers: list[int] = []
        self._hotplug: Hotplug | None = None
        self.mirror = Mirror(nodes, hotkey, held, journal)
        self.direct = Direct(nodes, hotkey, held, journal)

    def start(self) -> None:
        """Take what is there, and listen for more. Raises OSError."""
        self._watch(self.mirror.fileno(), self.mirror.on_readable)
        self._watch(self.direct.fileno(), self.direct.on_readable)
        if self._devices:
            self._hotplug = Hotplug()  # listens before it looks, so that nothing slips through
            for node in self._hotplug.present():
                self._plugged(node)
            self._watch(self._hotplug.fileno(), self._on_hotplug)

    def forget(self, driver: Equipment) -> None:
        """A driver is about to be closed: hear it no more. Another kind of driver is no error."""
        if isinstance(driver, Mirror | Direct):
            self._unwatch(driver.fileno())

    def hush(self) -> None:
        """Hear nothing any more. Twice is harmless."""
        while self._readers:
            self._unwatch(self._readers[-1])

    def close(self) -> None:
        """Both drivers are closed by their owner."""
        self.hush()
        if self._hotplug is not None:
            self._hotplug.close()
            self._hotplug = None

    def _on_hotplug(self) -> None:
        assert self._hotplug is not None
        for action, node in self._hotplug.events():
            if action == "add":
                self._plugged(node)
            elif action == "remove":
                self.mirror.remove(node.sysname)
                self.direct.remove(node.sysname)

    def _plugged(self, node: InputNode) -> None:
        if self.mirror.owns(node.sysname) or self.mirror.has(node.sysname):
            return
        if self.direct.has(node.sysname):
            return
        source = None
        try:
            source = Source(node.node)
            spec = first_match(self._devices, source.identity, node)
            if spec is None:
                source.close()
                return
            driver = self.mirror if spec.mode == "mirror" else self.direct
            driver.add(source, node, spec)
            log.info("%s (%s): %s", source.identity.name, node.node, spec.mode)
        except (OSError, HostsimError) as error:
            log.warning("%s: cannot be taken: %s", node.node, error)
            if source is not None:
                source.close()

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().add_reader(fd, callback)
        self._readers.append(fd)

    def _unwatch(self, fd: int) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        self._readers.remove(fd)
