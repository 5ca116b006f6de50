# SPDX-License-Identifier: Apache-2.0
"""A VM that boots has run for a while before it gets its eth0, and its root rules its network.

    give(vm, make, remove)      what it has made meanwhile is not in the way

A link of its own that is called eth0 gets another name. What its root wants otherwise holds: an
address or route that is there, and IPv6 turned off, early or late (net.ipv6.conf.all.disable_ipv6).
"""

import errno
import logging
from collections.abc import Callable

from hostsim.errors import HostsimError, reason
from hostsim.vm import Vm
from netns.links import Pack, pack_in
from netns.makeway import make_way

log = logging.getLogger("hostsim.switch")

TRIES = 4
"""Of making an eth0 whose VM is at work on its links meanwhile."""
TAKEN_OR_GONE = (errno.EEXIST, errno.EBUSY, errno.ENODEV, errno.ENOENT)
"""What is said of an eth0 whose name or number is taken, or that its VM has removed or renamed."""


def give(vm: Vm, make: Callable[[], None], remove: Callable[[], None]) -> None:
    """make: gives it its eth0, and raises OSError; remove: what takes away what was made of it.
    Raises HostsimError that names the VM."""
    for more in reversed(range(TRIES)):
        try:
            make()
            return
        except OSError as error:
            why = HostsimError(
                f"VM {vm.spec.name}",
                f"its eth0 cannot be made: {reason(error)}",
                "what its root starts may be at work on its links",
            )
            if not more or error.errno not in TAKEN_OR_GONE:
                raise why from error
            try:
                remove()
                for done in make_way(vm.netns_fd, "eth0", vm.eth0):
                    log.warning("%s: %s", vm.spec.name, done)
            except OSError:
                raise why from error


def tell(vm: Vm, fill: Pack) -> None:
    """Send what configures its eth0, see `links.pack_in`. Raises OSError, but not for what its root
    wants otherwise."""
    try:
        pack_in(vm.netns_fd, fill, (errno.EEXIST,) if vm.spec.boots else ())
    except OSError as error:
        if not vm.spec.boots or error.errno != errno.EACCES:
            raise
        log.warning("%s: its root has turned IPv6 off, and eth0 has none", vm.spec.name)
