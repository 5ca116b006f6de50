# SPDX-License-Identifier: Apache-2.0
"""Those VMs of a host that boot their own init: waited for at `up`, and again after each reboot.

    booted = Booted(vms, programs, on_back)
    await booted.all_up()        at `up`
    await booted.up(vms)         these are new on the host, and have been started
    booted.leave(name)           it leaves the host
    booted.again(vm)             it was started anew; returns at once
    booted.gone(vm)              its process 1 has ended: what it wanted
    booted.state(vm)             `off`, `booting`, or "": it is like any other VM
    booted.close()

    await ready(...)             one is up; raises HostsimError at boot.DEADLINE

How one VM boots and ends is in boot.py. Whether it is started again is the host's to do.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from hostsim import boot
from hostsim.errors import HostsimError, reason
from hostsim.logs import Logs
from hostsim.programs import Programs
from hostsim.vm import Vm

log = logging.getLogger("hostsim.host")


class Booted:
    """See above. All methods run in the host's loop; none but `all_up` waits."""

    def __init__(
        self, vms: Mapping[str, Vm], programs: Programs, on_back: Callable[[Vm], None]
    ) -> None:
        """on_back: called once an OS is up again; may raise OSError, HostsimError."""
        self._on_back = on_back
        self._vms = [vm for vm in vms.values() if vm.spec.boots]
        self._programs = programs
        self._gone: dict[str, asyncio.Event] = {}
        self._join(self._vms)
        self._off: set[str] = set()
        self._waits: dict[str, asyncio.Task[None]] = {}

    async def all_up(self) -> None:
        """Returns once all are up. Raises HostsimError: one is not in time, or has ended."""
        await self._all(self._vms)

    async def up(self, vms: Sequence[Vm]) -> None:
        """Returns once these are up, which are new on the host. Raises HostsimError: one is not in
        time, or has ended."""
        self._join(vms)
        await self._all(vms)

    async def _all(self, vms: Sequence[Vm]) -> None:
        await asyncio.gather(*[self._wait(vm, self._up(vm)) for vm in vms])

    def _join(self, vms: Sequence[Vm]) -> None:
        self._gone.update({vm.spec.name: asyncio.Event() for vm in vms})

    def leave(self, name: str) -> None:
        """It is not waited for any more. One that does not boot is no error."""
        self._gone.pop(name, None)
        self._off.discard(name)
        if (wait := self._waits.pop(name, None)) is not None:
            wait.cancel()

    def again(self, vm: Vm) -> None:
        """It was started anew. Before it is up, nothing may freeze it, and it has no equipment. One
        that does not come up is killed, so that it has failed."""
        self._gone[vm.spec.name].clear()
        self._off.discard(vm.spec.name)
        self._wait(vm, self._up_again(vm))

    def gone(self, vm: Vm) -> boot.Next:
        """Its process 1 has ended: whether it wants to be down, or started again, or has failed."""
        name, status = vm.spec.name, vm.ended()
        self._gone[name].set()
        wish = boot.after(status)
        if wish == "failed":
            log.error("%s: its init ended with status %s", name, status)
        elif wish == "down":
            self._off.add(name)
            log.info("%s: its OS has powered off", name)
        else:
            log.info("%s: its OS reboots", name)
        return wish

    def state(self, vm: Vm) -> str:
        """See above."""
        if not vm.spec.boots:
            return ""
        if not vm.runs:
            return "off" if vm.spec.name in self._off else ""
        return "" if vm.ready else "booting"

    def close(self) -> None:
        """Wait for none any more. Twice is harmless."""
        while self._waits:
            self._waits.popitem()[1].cancel()

    def _wait(self, vm: Vm, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if (before := self._waits.pop(vm.spec.name, None)) is not None:
            before.cancel()  # of the VM as it was: over, or without a meaning now
        task = asyncio.get_running_loop().create_task(job)
        self._waits[vm.spec.name] = task
        return task

    async def _up(self, vm: Vm) -> None:
        name = vm.spec.name
        assert vm.booting is not None
        self._programs.hear(name, vm.booting.master)
        if not vm.alive:
            raise boot.not_up(name, boot.ENDED, self._programs.logs.last_lines(name, boot.LINES))
        if vm.systemd:
            await ready(name, vm.booting, self._gone[name], self._programs.logs)
        vm.ready = True
        log.info("%s: its OS is up", name)

    async def _up_again(self, vm: Vm) -> None:
        try:
            await self._up(vm)
            self._on_back(vm)
        except (OSError, HostsimError) as error:
            log.error("%s: is not up again: %s", vm.spec.name, reason(error))
            vm.kill()


async def ready(
    name: str,
    booting: boot.Booting,
    gone: asyncio.Event,
    logs: Logs,
    deadline: float = boot.DEADLINE,
) -> None:
    """Wait for systemd's word. gone: set once process 1 has ended. Raises HostsimError with the
    last lines of its log: it ended, or was not ready after `deadline` seconds."""
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    told = booting.notify.dup()  # the VM may be stopped, and close its own, before we hear of it

    def hear() -> None:
        with contextlib.suppress(OSError):
            if b"READY=1" in told.recv(boot.MESSAGE_MAX).split(b"\n"):
                heard.set()

    loop.add_reader(told, hear)
    waits = {asyncio.create_task(event.wait()) for event in (heard, gone)}
    try:
        await asyncio.wait(waits, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        loop.remove_reader(told)
        told.close()
        booting.notify.close()  # or systemd would wait for somebody who does not read it
    if not heard.is_set():
        why = boot.ENDED if gone.is_set() else f"is not ready after {deadline:g} s"
        raise boot.not_up(name, why, logs.last_lines(name, boot.LINES))
