# SPDX-License-Identifier: Apache-2.0
# PYTHON_ARGCOMPLETE_OK
"""Where the command `hostsim` begins: what it loads is no garbage, and Python's collector does not
look for any in it (a twentieth of the time until it is loaded)."""

import gc


def main() -> int:
    """See hostsim.cli.main."""
    gc.disable()
    from hostsim.cli.main import main as run

    return run(own_process=True)
