# SPDX-License-Identifier: Apache-2.0
"""One VM, started from this process's mounts, and a command in it.

    one_vm.py FOLDER CMD...     FOLDER: for its journal

Prints what the command prints; ends with its exit status.
"""

import os
import sys
from pathlib import Path

from hostsim.model import VmSpec
from hostsim.vm import Vm
from netns.journal import Journal

if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]) / "journal")
    vm = Vm(f"t{os.getpid()}", VmSpec("a"), 1)
    try:
        vm.start(journal)
        done = vm.run(sys.argv[2:])
    finally:
        vm.stop()
        journal.close()
    sys.stdout.write(done.stdout.decode())
    sys.stderr.write(done.stderr.decode())
    sys.exit(done.returncode)
