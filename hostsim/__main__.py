# SPDX-License-Identifier: Apache-2.0
"""`python -m hostsim`: the command of that name, for an interpreter whose bin is on no PATH."""

import sys

from hostsim.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
