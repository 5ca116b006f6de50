# SPDX-License-Identifier: Apache-2.0
"""The classifier with a defence taken out, in place of the one that is installed."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from cext import HERE
from cext.bpf import objects

CEXT = Path(__file__).parents[2] / "cext"
SOURCE = "switch/classifier.bpf.c"

Edits = Mapping[str, tuple[str, str]]
"""By file of cext/: what stands there once, and what stands in its place."""


def without(edits: Edits, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the classifier is one with these edits."""
    for path in CEXT.rglob("*.h"):
        copy = folder / "cext" / path.relative_to(CEXT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(CEXT / SOURCE, folder / "cext" / SOURCE)
    for name, (old, new) in edits.items():
        text = (folder / "cext" / name).read_text()
        assert text.count(old) == 1, (name, old)
        (folder / "cext" / name).write_text(text.replace(old, new))
    objects_in = folder / "objects"
    objects_in.mkdir()
    for built in HERE.glob("*.bpf.o"):
        os.symlink(built, objects_in / built.name)
    made = objects_in / "classifier.bpf.o"
    made.unlink()
    arch = subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True)
    words = ["clang", "-target", "bpf", "-O2", "-g", f"-I/usr/include/{arch.stdout.strip()}"]
    words += ["-iquote", str(folder / "cext"), "-c", str(folder / "cext" / SOURCE)]
    subprocess.run([*words, "-o", str(made)], check=True)
    monkeypatch.setattr(objects, "HERE", objects_in)
