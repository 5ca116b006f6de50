# SPDX-License-Identifier: Apache-2.0
"""A VM of a running host is ended, and made anew: what takes long is done beside the loop.

    await remake(vm, vms, joined, doing, back)

Its processes have to end, which is the kernel's time and theirs, and all it is made of has to be
made again. Meanwhile the host's `Vm` is one that does not run and has nothing: what it had is taken
down by a thread, where another `Vm` of the same number is made; then they trade places. So nothing
in the loop sees a VM that is half there, and nothing there has a descriptor that a thread closes.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

from hostsim.changes import Joined
from hostsim.teardown import in_thread
from hostsim.vm import Vm


async def remake(
    vm: Vm,
    vms: Mapping[str, Vm],
    joined: Joined,
    doing: Callable[[str], AbstractContextManager[None]],
    back: Callable[[Vm], None],
) -> None:
    """See the module. In the turn of who changes the host (changes.py). Raises OSError,
    HostsimError: the VM does not run then.

    doing: names what the loop does meanwhile.
    back: what is to be done in the loop with a VM that runs again.
    """
    name = vm.spec.name
    joined.programs.forget(name)
    joined.carriers.forget(name)
    former, new = vm.part(), vm.another()
    everybody = [new if one is vm else one for one in vms.values()]
    traded = False
    try:
        ready = joined.dataplane.readying.renewing(new)
        await in_thread(partial(_made_anew, joined, former, new, everybody, ready))
        vm.trade(new)
        traded = True
        with doing(f"restart of {name}"):
            joined.dataplane.vm_back(name)
            back(vm)
    except BaseException:
        joined.dataplane.vm_gone(name)
        await in_thread((vm.part() if traded else new).stop)
        raise


def _made_anew(
    joined: Joined, former: Vm, new: Vm, everybody: list[Vm], ready: Callable[[], None]
) -> None:
    """End one, and make the other. Raises OSError, HostsimError."""
    joined.switch.disconnect(former)
    former.stop()
    new.start(joined.journal)
    joined.switch.connect([new], everybody)
    ready()
