# SPDX-License-Identifier: Apache-2.0
"""What is made of a host before its daemon has loaded all of itself.

    ahead = Ahead(spec, folder, loading)
    ahead.start()                        the journal, and those VMs that boot; refuses what cannot
                                         work
    ahead.end()                          whoever started the daemon wants no host any more
    Host(spec, folder, stalls, ahead)    goes on from there: all that was made is its own
    ahead.close()                        takes down what a Host has not

Systems that boot take longer to be up than all else. They come up while the daemon loads the rest.
It blocks, needs no event loop, and imports none, nor the data plane.
"""

from pathlib import Path

from hostsim import service
from hostsim.errors import HostsimError
from hostsim.members import both, numbered, refuse, refuse_ways_to_the_world, start
from hostsim.model import HostSpec
from hostsim.routing.loading import Loading
from hostsim.routing.policy import refuse_too_many
from hostsim.teardown import Teardown
from netns.journal import Journal


class Ahead:
    """See the module. vms: by name; closing: takes down what was made; loading: what the kernel is
    loading already, if anything, which stays the caller's; ended: whether `end` was called."""

    def __init__(self, spec: HostSpec, folder: Path, loading: Loading | None = None) -> None:
        self._spec = spec
        self._folder = folder
        self._journal: Journal | None = None
        self.loading = loading
        self.vms = numbered(spec)
        self.closing = Teardown(f"host {spec.name}")
        self.ended = False

    def start(self) -> Journal:
        """The host's journal; twice is harmless. Raises HostsimError, OSError, with nothing left
        behind."""
        if self._journal is not None:
            return self._journal
        try:
            self.closing.check()
            self._refuse_what_cannot_work()
            journal = Journal(self._folder / "journal")
            self.closing.push("journal", journal.close)
            boots = {name: vm for name, vm in self.vms.items() if vm.spec.boots}
            if boots:
                start(boots, journal, self.closing)
        except Exception as error:
            try:
                self.close()
            except HostsimError as second:
                raise both(error, second) from error
            if self.ended:
                raise HostsimError(f"up {self._spec.path.name}", service.ENDED_EARLY) from error
            raise
        self._journal = journal
        return journal

    def end(self) -> None:
        """At any time, in a signal's handler too: no further VM is started."""
        self.ended = True
        self.closing.give_up()

    def close(self) -> None:
        """Twice is harmless. Raises HostsimError."""
        self.closing.close()

    def _refuse_what_cannot_work(self) -> None:
        spec = self._spec
        refuse_too_many(spec.routes, spec.filters, spec.mirrors)
        refuse(spec, [self.vms[vm.name] for vm in spec.vms])
        refuse_ways_to_the_world(spec, (*spec.uplinks, *spec.nics))
