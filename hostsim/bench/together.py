# SPDX-License-Identifier: Apache-2.0
"""Several benches, one after the other, as one page: `hostsim bench --html FILE [NAME,...]`.

Each is a process of its own (`hostsim bench NAME --json`), so that none leaves anything to the
next. One that fails is named in the page with what it said.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostsim.bench import common, page
from hostsim.errors import HostsimError

DEADLINE = 3600.0
"""Seconds for one bench."""


def run(names: Sequence[str], options: Sequence[str], file: str) -> int:
    """Run them and write the page; the exit status. options: of every bench. Raises
    HostsimError."""
    target = Path(file)
    half = target.with_name(f".{target.name}.new")
    try:
        half.write_text("")  # what cannot be written is known before an hour of benches
    except OSError as error:
        raise HostsimError(f"bench --html {file}", error.strerror or str(error)) from None
    try:
        documents, left = _documents(names, options)
        about = page.About(
            time.strftime("%Y-%m-%d %H:%M %Z"),
            commit(),
            " ".join(["hostsim bench --html", file, ",".join(names), *options]),
            left,
        )
        half.write_text(page.page(documents, about), encoding="utf-8")
        half.replace(target)
    except OSError as error:
        raise HostsimError(f"bench --html {file}", error.strerror or str(error)) from None
    finally:
        half.unlink(missing_ok=True)
    print(f"{file}: {', '.join(documents) or 'no bench'}")
    return 1 if left else 0


def _documents(
    names: Sequence[str], options: Sequence[str]
) -> tuple[dict[str, tuple[str, Any]], dict[str, str]]:
    """Of each bench its command and its document; and of those that failed what they said."""
    documents: dict[str, tuple[str, Any]] = {}
    left: dict[str, str] = {}
    for name in names:
        common.progress(f"bench {name}")
        words = ["bench", name, *options]
        done = subprocess.run(
            common.hostsim(*words, "--json"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        if done.returncode == 0:
            documents[name] = " ".join(["hostsim", *words]), json.loads(done.stdout)
        else:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            left[name] = said[-1].removeprefix("hostsim: ")
    common.progress("")
    return documents, left


def commit() -> str:
    """Of the checkout whose .venv this is, or of the current directory, if it is one."""
    folder = Path(sys.prefix).parent
    if not (folder / "hostsim").is_dir():
        folder = Path.cwd()
    words = ("git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "not known"
    return done.stdout.strip() or "not known"
