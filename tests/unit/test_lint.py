# SPDX-License-Identifier: Apache-2.0
"""Style and types, as tests: ruff, mypy, clang-format, shellcheck, and the rules of the house."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PYTHON = ("hostsim", "netns", "cext", "tests", "scripts")

# Put together here so that this file does not break its own rules.
FORBIDDEN = {
    "time." + "sleep(": "wait for a condition with a deadline",
    "pytest." + "skip": "a test that cannot run must fail",
    "pytest.mark." + "skip": "a test that cannot run must fail",
    "x" + "fail": "a test that cannot pass is no test",
    "|| " + "true": "a failure is handled, not hidden",
    "TO" + "DO": "the work is done or it is not begun",
    "FIX" + "ME": "the work is done or it is not begun",
    "except " + "Exception:\n        pass": "an error is handled or passed on",
}
ALLOWED = {"pytest." + "skip": "hostsim/lab/plugin.py"}
"""Other people's tests may be run without root."""
LINES_MAX = 550


def sources(*endings: str) -> list[Path]:
    """The project's own text files with these endings."""
    found = []
    for top in (*PYTHON, "vagrant", ".ci"):
        found += [path for path in (ROOT / top).rglob("*") if path.name.endswith(endings)]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def shell_scripts() -> list[Path]:
    """Files of scripts, vagrant and .ci that a shell runs."""
    found = [path for top in ("scripts", "vagrant", ".ci") for path in (ROOT / top).iterdir()]
    return [
        path
        for path in sorted(found)
        if path.is_file()
        and (path.suffix == ".sh" or path.read_text().startswith(("#!/bin/sh", "#!/usr/bin/env b")))
    ]


def run(*words: str | Path) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check() -> None:
    run(BIN / "ruff", "check", *PYTHON)


def test_ruff_format() -> None:
    run(BIN / "ruff", "format", "--check", *PYTHON)


@pytest.mark.timeout(300)
def test_mypy() -> None:
    """What pyproject.toml lists: everything, the tests too."""
    run(BIN / "mypy")


def test_clang_format() -> None:
    run(BIN / "clang-format", "--dry-run", "-Werror", *sources(".c", ".h"))


def test_shellcheck() -> None:
    run("shellcheck", "-x", "-P", ROOT, *shell_scripts())


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_rule_of_the_house(rule: str) -> None:
    files = [*sources(".py", ".c", ".h", ".sh", ".toml"), *shell_scripts(), ROOT / "pyproject.toml"]
    allowed = ALLOWED.get(rule)
    found = [
        name
        for path in files
        if (name := str(path.relative_to(ROOT))) != allowed and rule in path.read_text()
    ]
    assert not found, f"{FORBIDDEN[rule]}: {found}"


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(".py", ".c", ".h")}
    assert not {str(path): count for path, count in lengths.items() if count > LINES_MAX}


def opening(path: Path) -> str:
    """A source file without its first lines: how to run it, and its licence."""
    lines = path.read_text().splitlines(keepends=True)
    while lines and lines[0].startswith(("#!", "# SPDX-", "// SPDX-", "# PYTHON_ARGCOMPLETE_OK")):
        del lines[0]
    return "".join(lines)


PRIORITIES = ("initializer=priority.keep_up", "initializer=priority.stay_behind")
"""Behind stay threads for what a VM can make long, in the kernel."""
NOT_THE_DAEMONS = ("hostsim/bench", "hostsim/cli", "hostsim/lab", "hostsim/examples")


def test_threads_of_the_daemon_have_its_priority() -> None:
    """One of lower priority that loses the processor while it has the interpreter's lock keeps the
    loop waiting for as long (netns/priority.py)."""
    late = []
    for path in sources(".py"):
        name = str(path.relative_to(ROOT))
        if name.startswith(("tests", "scripts", *NOT_THE_DAEMONS)):
            continue
        for found in re.finditer(
            r"ThreadPoolExecutor\(((?:[^()]|\([^()]*\))*)\)", path.read_text()
        ):
            if not any(one in found.group(1) for one in PRIORITIES):
                late.append(f"{name}: {found.group(0)}")
    assert late == []


def test_every_file_opens_with_what_it_is() -> None:
    files = [path for path in sources(".py", ".c", ".h") if path.read_text()]
    silent = [path.name for path in files if not opening(path).startswith(('"""', "//", "/*"))]
    assert not silent


def test_every_file_says_its_licence() -> None:
    """The project's is in LICENSE. What is loaded into the kernel may be had by the kernel's too
    (its own word for it, in each object: Dual BSD/GPL)."""
    wrong = []
    for path in (*sources(".py", ".c", ".h", ".sh", "meson.build"), *shell_scripts()):
        kernel = path.name.endswith((".bpf.c", ".bpf.h"))
        licence = "GPL-2.0-only OR BSD-2-Clause" if kernel else "Apache-2.0"
        line = re.compile(rf"^(#|//) SPDX-License-Identifier: {re.escape(licence)}$", re.MULTILINE)
        text = path.read_text()
        if text and not line.search(text[:200]):
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


def test_a_c_file_says_which_part_of_its_headers_contract_it_holds() -> None:
    """ "See x.h." alone says nothing that the name of the file does not."""
    files = [path for path in sources(".c") if re.match(r"/\* See \S+\.h\. \*/\n", opening(path))]
    assert not [str(path.relative_to(ROOT)) for path in files]
