# SPDX-License-Identifier: Apache-2.0
"""A distribution's compositor in an OS: what it needs to run there, unmodified.

It runs as USER in PLACE, a directory of its own, with hostsim's seat. What it reads from stdin is
the file `config` there.
"""

from collections.abc import Sequence

PLACE = "/run/desktop"
USER = "games"  # compositors do not run as root


def command(program: Sequence[str], *first: str) -> list[str]:
    """The program's words in that OS. first: lines of shell that are run before it, in PLACE."""
    lines = (
        "set -e",
        f"mkdir -m 700 {PLACE}",
        f"cd {PLACE}",
        "cat >config",
        *first,
        f"chown -R {USER} .",
        f"export XDG_RUNTIME_DIR={PLACE} HOME={PLACE} LC_ALL=C.UTF-8",
        "export LIBSEAT_BACKEND=seatd WLR_RENDERER=pixman",
        f'exec setpriv --reuid {USER} --regid {USER} --clear-groups "$@"',
    )
    return ["sh", "-c", "\n".join(lines), "sh", *program]
