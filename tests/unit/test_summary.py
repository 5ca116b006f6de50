# SPDX-License-Identifier: Apache-2.0
"""scripts/summary.py and scripts/test's `part`, which decide whether a run has passed: each way in
which a part can fail is a failure of the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from help.waiting import until

ROOT = Path(__file__).parents[2]
SUMMARY = ROOT / "scripts" / "summary.py"

PASSED = '<testcase classname="unit.test_a" name="test_one" time="1.5"/>'
FAILED = '<testcase classname="t" name="n"><failure message="assert 1 == 2&#10;more">x</failure>'
SKIPPED = '<testcase classname="t" name="n"><skipped message="no root"/></testcase>'
ERROR = '<testcase name="n"><error>boom in the fixture</error></testcase>'


def part(folder: Path, name: str, status: int, *cases: str, xml: str | None = None) -> None:
    """What scripts/test leaves of a part. xml: the JUnit file, instead of that of the cases."""
    (folder / f"{name}.status").write_text(f"{status}\n")
    whole = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
    if cases or xml is not None:
        (folder / f"{name}.xml").write_text(whole if xml is None else xml)


def summary(folder: Path) -> tuple[int, list[str]]:
    """Exit status, and lines."""
    command = (sys.executable, "-P", SUMMARY, folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_all_passed(tmp_path: Path) -> None:
    part(tmp_path, "unit", 0, PASSED, PASSED)
    part(tmp_path, "c-thread", 0, PASSED)
    status, lines = summary(tmp_path)
    assert status == 0
    assert lines[-1] == "3 passed, 0 failed"
    assert [line.split() for line in lines if line.startswith(("unit", "c-thread"))] == [
        ["c-thread", "1", "0", "1.5"],
        ["unit", "2", "0", "3.0"],
    ]
    assert not [line for line in lines if line.startswith("FAILED")]


@pytest.mark.parametrize(
    ("status", "cases", "said"),
    [
        (1, [PASSED, FAILED + "</testcase>"], "t::n: failure: assert 1 == 2"),
        (1, [PASSED, ERROR], "n: error: boom in the fixture"),
        (0, [PASSED, SKIPPED], "t::n: skipped: no root"),
        (0, [], "the part ran no test"),
        (5, [], "the part's runner ended with exit status 5"),
        (2, [PASSED], "the part's runner ended with exit status 2"),
        (124, [PASSED], "the part was not done in time"),
        (137, [PASSED], "the part was not done in time"),
    ],
    ids=["failure", "error", "skip", "no-test", "no-runner", "bad-end", "late", "killed"],
)
def test_what_fails_a_run(tmp_path: Path, status: int, cases: list[str], said: str) -> None:
    part(tmp_path, "fine", 0, PASSED)
    part(tmp_path, "kernel", status, *cases)
    code, lines = summary(tmp_path)
    assert code == 1
    assert f"FAILED kernel: {said}" in lines
    assert lines[-1] == f"{1 + (PASSED in cases)} passed, 1 failed"


def test_results_that_are_cut_short_fail_a_run(tmp_path: Path) -> None:
    """A runner that was killed while it wrote."""
    part(tmp_path, "input", 0, xml=f"<testsuites><testsuite>{PASSED}")
    status, lines = summary(tmp_path)
    assert status == 1
    assert lines[0].startswith("FAILED input: input.xml is cut short: ")
    assert lines[-1] == "0 passed, 1 failed"


def test_no_part_at_all_fails_a_run(tmp_path: Path) -> None:
    assert summary(tmp_path)[0] == 1


def script(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Lines of bash after scripts/lib.sh."""
    return subprocess.run(
        ("bash", "-c", f'. "{ROOT}/scripts/lib.sh"\n{text}'),
        cwd=folder,
        env=os.environ | {"TMPDIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def function(name: str) -> str:
    """One function of scripts/test."""
    source = (ROOT / "scripts" / "test").read_text()
    return source[source.index(f"\n{name}() {{") :].split("\n}\n")[0] + "\n}\n"


def test_a_parts_status_is_kept_whatever_it_is(tmp_path: Path) -> None:
    """`part` of scripts/test as it stands: failure, and a limit on its time."""
    run = function("part") + f"RESULTS={tmp_path}\n"
    run += "part fine 5 true\npart fails 5 sh -c 'exit 3'\npart late 0.2 sleep 30\n"
    done = script(run, tmp_path)
    assert done.returncode == 0, done.stderr  # the summary decides, when all parts have run
    kept = {path.stem: path.read_text() for path in tmp_path.glob("*.status")}
    assert kept == {"fine": "0\n", "fails": "3\n", "late": "124\n"}


LANES = """RESULTS=$PWD
part_slow() {{ part slow 20 {slow}; }}
part_quick() {{ part quick 20 echo quick was here; }}
part_broken() {{ fail broken "cannot begin"; }}
beside slow {more} -- quick
"""


@pytest.mark.parametrize("more", ["", "broken"])
def test_parts_beside_others(tmp_path: Path, more: str) -> None:
    """They run at the same time, and speak one after the other; what cannot begin is no success."""
    slow = "sh -c 'until [ -e quick.status ]; do sleep 0.01; done; echo slow was here'"
    lanes = "".join(map(function, ("part", "beside", "turns")))
    done = script(lanes + LANES.format(slow=slow, more=more), tmp_path)
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    kept = {path.stem: path.read_text() for path in tmp_path.glob("*.status")}
    assert kept == {"slow": "0\n", "quick": "0\n"} | ({"beside": "1\n"} if more else {})
    assert said.index("== quick") < said.index("== slow") < said.index("slow was here")
    assert ("hostsim: broken: cannot begin" in said) == bool(more)


STOPS = """
echo $$ >slow.pid
until [ -e quick.ready ] &&
    [ $(cat /proc/$PPID/status /proc/$(cat quick.ready)/status | grep -c sleeping) = 2 ]
do sleep 0.01; done
kill -TERM $SCRIPT
exec sleep 25
"""
"""Stops the script that it is a part of, once timeout(1) waits for both; it may go alone before."""


def test_nothing_runs_on_when_the_script_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "stops").write_text(STOPS)
    quick = "sh -c 'echo $$ >quick.pid; echo $PPID >quick.new; mv quick.new quick.ready; sleep 25'"
    lanes = "export SCRIPT=$$\n" + "".join(map(function, ("part", "beside", "turns")))
    lanes += LANES.format(slow="sh stops", more="").replace("echo quick was here", quick)
    done = script(lanes, tmp_path)
    assert done.returncode == -signal.SIGTERM, done.stderr
    pids = [(tmp_path / f"{name}.pid").read_text().strip() for name in ("slow", "quick")]
    until(lambda: not any(Path("/proc", pid).exists() for pid in pids), 10, "the parts' end")


def test_a_step_that_fails_ends_the_script_with_the_end_of_its_log(tmp_path: Path) -> None:
    done = script("step work sh -c 'seq 100; exit 4'\necho on", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "work ... failed (exit status 4)"
    assert lines[1:-1] == [str(n) for n in range(71, 101)]
    assert lines[-1] == "hostsim: work: failed, see the lines above"
    assert not list(tmp_path.glob("hostsim-step.*"))


def test_a_step_that_succeeds_says_so_and_nothing_else(tmp_path: Path) -> None:
    done = script("step work sh -c 'seq 100'\necho on", tmp_path)
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert done.stderr.startswith("work ... ")
    assert done.stderr.endswith(" s\n")
    assert "100" not in done.stderr
    assert not list(tmp_path.glob("hostsim-step.*"))


APT_CACHE = """#!/bin/sh
# apt-cache policy NAME: only `there` can be had
[ "$2" = there ] && echo "  Candidate: 1.0" || echo "  Candidate: (none)"
"""
DPKG_QUERY = """#!/bin/sh
printf 'ii  %s\\n' one two-dev
printf 'rc  %s\\n' removed
"""


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, str]:
    """An environment whose apt-cache and dpkg-query know a few packages."""
    for name, text in (("apt-cache", APT_CACHE), ("dpkg-query", DPKG_QUERY)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_packages_that_are_missing(tmp_path: Path, tools: dict[str, str]) -> None:
    (tmp_path / "scripts").mkdir()
    lines = ["# group names", "build one", "build other|two-dev", "test removed|more", "vm none"]
    (tmp_path / "scripts" / "packages").write_text("\n".join(lines) + "\n")
    done = script(f"ROOT={tmp_path}\nmissing_packages build test", tmp_path, **tools)
    assert (done.returncode, done.stdout) == (0, "removed|more\n"), done.stderr


def test_of_alternatives_the_first_that_can_be_had(tmp_path: Path, tools: dict[str, str]) -> None:
    done = script("installable 'none|there|other'", tmp_path, **tools)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    done = script("installable 'none|other'", tmp_path, **tools)
    assert done.returncode == 1
    assert "package none or other" in done.stderr


def test_any_source_that_changes_is_built_again(tmp_path: Path) -> None:
    """The hash of what the build reads: contents, names, and what is no source."""
    for path in ("hostsim/a.py", "cext/b.c", "netns/c.py", "pyproject.toml", "tests/c/t.c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1\n")

    def now() -> str:
        run = f'ROOT={tmp_path}\nVENV={tmp_path}\nhash=$(sources_hash)\nprintf %s "$hash"'
        done = script(run, tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen = [now()]
    assert now() == seen[0]
    (tmp_path / "hostsim" / "__pycache__").mkdir()
    (tmp_path / "hostsim" / "__pycache__" / "a.pyc").write_text("x")
    (tmp_path / "tests" / "help.py").write_text("x")
    assert now() == seen[0]
    (tmp_path / "cext/b.c").write_text("2\n")
    seen.append(now())
    (tmp_path / "cext/b.c").rename(tmp_path / "cext/d.c")
    seen.append(now())
    (tmp_path / "netns/c.py").unlink()
    seen.append(now())
    assert len(set(seen)) == 4
