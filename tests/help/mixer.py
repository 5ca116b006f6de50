# SPDX-License-Identifier: Apache-2.0
"""The mixer of the machine's first sound card, by alsa-utils."""

import subprocess


def machine(*words: str) -> str:
    """Set the machine's own volume; how its mixer is then."""
    if words:
        subprocess.run(["amixer", "-q", "-c", "0", "sset", "Master", *words], check=True)
    asked = ["amixer", "-c", "0", "contents"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout
