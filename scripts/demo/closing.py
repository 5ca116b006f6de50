# SPDX-License-Identifier: Apache-2.0
"""The closing table: what the demos saw, and the command that shows each again."""

import json
import sys

from rich.text import Text
from stage import SEEN, console, headline, table


def closing() -> int:
    """Show it. Returns the exit status."""
    headline("all of it")
    shown = table("seen", "", "again by")
    for line in SEEN.read_text().splitlines():
        what, value, command = json.loads(line)
        shown.add_row(what, Text(value, style="bold green"), Text(command, style="dim"))
    console.print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(closing())
