# SPDX-License-Identifier: Apache-2.0
"""What every host stands on: its VMs, their switch, and the data plane between them.

    closing = Teardown("host lab")
    net = assemble(spec, numbered(spec), journal, closing)
    ...
    closing.close()

The daemon's host, the benches and the tests all build it here. It blocks, needs no event loop, and
may run in any thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hostsim.members import side_by_side, start_one, stop
from hostsim.model import HostSpec
from hostsim.routing.dataplane import Dataplane
from hostsim.routing.loading import Loading
from hostsim.switch import Switch
from hostsim.teardown import Teardown
from hostsim.vm import Vm
from netns import links
from netns.journal import Journal

if TYPE_CHECKING:
    from hostsim.nf.functions import Functions


@dataclass(frozen=True)
class Assembly:
    """The parts, linked and running."""

    spec: HostSpec
    vms: Mapping[str, Vm]
    switch: Switch
    dataplane: Dataplane

    def functions(
        self, logs: Path, closing: Teardown, placed: bool = True, tapped: bool = True
    ) -> "Functions":
        """The host's packet functions, ready to be started; its VMs need not have any. logs: the
        folder of their output. placed, tapped: see Functions. Raises OSError."""
        from hostsim.nf.functions import Functions  # only hosts that have some load it

        made = Functions(self.spec, self.switch, self.dataplane, self.vms, logs, placed, tapped)
        closing.push("network functions", made.close)
        made.prepare()
        return made


def assemble(
    spec: HostSpec,
    vms: Mapping[str, Vm],
    journal: Journal,
    closing: Teardown,
    loading: Loading | None = None,
) -> Assembly:
    """Start the VMs that do not run yet, link them all, lend the uplinks, and write the policy.
    Everything that is to be taken down is in `closing` when it is made, also if this raises:
    HostsimError, OSError. Ends early with HostsimError once `closing` is given up.

    loading: see Dataplane."""
    switch = Switch(spec.name, journal)
    plane = Dataplane(spec, switch, vms, loading)
    closing.push("switch", switch.close, blocks=True)
    closing.push("data plane's interfaces", plane.closed, blocks=True)
    closing.push("VMs", partial(stop, vms), blocks=True)
    closing.push("data plane", plane.close, blocks=True)
    starts = [partial(start_one, vm, journal, closing) for vm in vms.values() if vm.pidfd < 0]
    # The kernel loads the classifier beside the VMs, if it has not begun before; the library comes
    # once they have started, if it may be needed soon: for direct links, or for NICs.
    compiles = bool(spec.routes or spec.uplinks or spec.nics)
    side_by_side([*starts, plane.load, *([links.load] if compiles else [])])
    switch.start()
    everybody, first = list(vms.values()), len(vms) + 1
    switch.place(everybody)
    plane.begin(range(first, first + len(spec.uplinks)))
    switch.connect(everybody)
    closing.check()
    switch.attach(spec.uplinks, first)
    plane.start()
    closing.check()
    return Assembly(spec, vms, switch, plane)
