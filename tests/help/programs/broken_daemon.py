# SPDX-License-Identifier: Apache-2.0
"""A host's daemon in which one step of taking things down is broken.

    broken_daemon.py FILE BROKEN FAILING [unexpected | signalled]

FILE: a host file
BROKEN: the number of the step that raises instead of doing its work, in the order in which the
    steps were pushed; -1: none
FAILING: the number of the step after whose push building the host fails; -1: it stands, and goes
    down by SIGTERM
unexpected: building fails with an error that nothing in hostsim raises on purpose
signalled: building does not fail there, but the daemon gets SIGTERM

Ends as hostsim.daemon does; the last line on stdout is {"pushed": [names], "run": [names]}.
"""

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hostsim import daemon, teardown
from hostsim.errors import HostsimError

PUSH = teardown.Teardown.push


def main(file: str, broken: int, failing: int, how: str) -> int:
    pushed: list[str] = []
    run: list[str] = []

    def push(
        closing: teardown.Teardown, name: str, step: Callable[[], Any], *, blocks: bool = False
    ) -> None:
        number = len(pushed)
        pushed.append(name)

        def observed() -> Any:
            run.append(name)
            if number == broken:
                raise OSError(errno.EBUSY, "broken by a test")
            return step()

        PUSH(closing, name, observed, blocks=blocks)
        if number == failing:
            if how == "signalled":
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if how == "unexpected":
                raise KeyError("ended by a test")
            raise HostsimError("building", "ended by a test")

    teardown.Teardown.push = push  # type: ignore[assignment,method-assign]
    sys.argv = ["hostsim.daemon", file]
    status = daemon.main()
    print(json.dumps({"pushed": pushed, "run": run}))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "".join(sys.argv[4:])))
