# SPDX-License-Identifier: Apache-2.0
"""What a host needs of the machine's text consoles and its SysRq (netns/console.py): the KMC's
drivers ask for quiet, and give back. It is in the journal before anything is set."""

import logging

from hostsim.errors import reason
from netns.console import Console, Setting
from netns.journal import Journal

log = logging.getLogger("hostsim.kmc")


class Consoles:
    """Some settings that are wanted quiet together. Each goes its own way: one that cannot be set,
    or given back, is in the log and stops no other. Both methods may be called at any time."""

    def __init__(self, journal: Journal, *settings: Setting) -> None:
        self._journal = journal
        self._each = tuple(Console(setting) for setting in settings)

    @property
    def is_quiet(self) -> bool:
        """Whether this host has asked for it, in each of them."""
        return all(one.is_quiet for one in self._each)

    def quiet(self) -> None:
        """See above."""
        for one in self._each:
            if not one.is_quiet:
                try:
                    self._journal.add("console", path=str(one.path))
                    one.quiet()
                except OSError as error:
                    _failed(one, "cannot be made quiet", error)

    def give_back(self) -> None:
        """As it was found, unless another host needs quiet."""
        for one in self._each:
            try:
                one.give_back()
            except OSError as error:
                _failed(one, "cannot be given back", error)


def _failed(one: Console, what: str, error: OSError) -> None:
    log.warning("the machine's consoles (%s): %s: %s", one.path.name, what, reason(error))
