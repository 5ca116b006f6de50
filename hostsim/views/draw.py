# SPDX-License-Identifier: Apache-2.0
"""A picture of a host into a file: graphviz's `dot` draws; the file appears whole or not at all."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hostsim.errors import HostsimError, UsageError
from hostsim.views import dot, mermaid
from hostsim.views.picture import Picture

DEADLINE = 60.0
"""Seconds for graphviz."""


def _svg(picture: Picture) -> str:
    """Raises HostsimError."""
    program = shutil.which("dot")
    if program is None:
        why = "graphviz is not installed"
        hint = "apt install graphviz; or -o FILE.dot, -o FILE.mmd, which need none"
        raise HostsimError("graph", why, hint)
    try:
        done = subprocess.run(
            (program, "-Tsvg"),
            input=dot.dot(picture).encode(),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        hint = "-o FILE.dot has the picture without its layout"
        raise HostsimError("graph", f"graphviz took over {DEADLINE:.0f} s", hint) from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise HostsimError("graph", f"graphviz ended with {done.returncode}: {''.join(last)}")
    return dot.styled(done.stdout.decode())


WAYS: dict[str, Callable[[Picture], str]] = {
    ".svg": _svg,
    ".dot": dot.dot,
    ".mmd": mermaid.mermaid,
}
"""How a picture is written, by the ending of the file's name."""


def way(file: str) -> Callable[[Picture], str]:
    """How a picture is written to this file; `-` is standard output. Raises UsageError."""
    ending = ".svg" if file == "-" else Path(file).suffix.lower()
    if ending not in WAYS:
        raise UsageError(
            f"graph -o {file}", "its ending says no format", f"{', '.join(WAYS)}, or -"
        )
    return WAYS[ending]


def write(text: str, file: str) -> None:
    """Into a file, or to standard output. Raises OSError; then the file is as it was."""
    if file == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(file)
    if path.exists() and not path.is_file():  # /dev/stdout, a named pipe
        path.write_text(text)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8") as out:
            out.write(text)
            os.fchmod(out.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
