# SPDX-License-Identifier: Apache-2.0
"""Network functions of a user's own, for tests: `put` one beside a host file, and name it there as
`nf = "MODULE:FUNCTION"`."""

import shutil
from pathlib import Path

FUNCTIONS = Path(__file__).parent


def put(module: str, folder: Path) -> None:
    """A copy in the folder that the host file is in."""
    shutil.copy(FUNCTIONS / f"{module}.py", folder)
