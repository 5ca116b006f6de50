# SPDX-License-Identifier: Apache-2.0
"""What READMEs say to type, in this order, to get something done."""

import re
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "hostsim/images/README.md"


def recipe(heading: str, file: Path = IMAGES) -> list[str]:
    """The lines of the first block of commands below a heading."""
    (section,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", file.read_text(), re.DOTALL | re.MULTILINE
    )
    block: str = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[0]
    return block.splitlines()
