# SPDX-License-Identifier: Apache-2.0
"""A daemon that is a copy of the command has what a new process would have, and nothing else."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, resource, signal, sys, threading
from hostsim import daemon, forked

def main(words, spec):
    {body}

daemon.main = main
sys.argv[0], sys.path[0] = "/some/bin/hostsim", "/some/bin"
{before}
told, ready = os.pipe()
possible = forked.possible()
child = forked.start({{"name": "h"}}, "x.toml", "info", ready)
os.close(ready)
said = os.read(told, 65536).decode()
status = child.wait(20)
child.terminate()
print(json.dumps([possible, said, status, child.stderr.read().decode()]))
"""
TELL = """
    listed = sorted(map(int, os.listdir("/proc/self/fd")))
    there = [fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")]  # but for the list
    own = dict(words=words, spec=spec, fds=there, path=sys.path[0])
    own["session"] = os.getsid(0) == os.getpid()
    own["links"] = [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1)]
    os.write(int(words[2]), json.dumps(own).encode())
    return 3
"""


def run(body: str, before: str = "", *flags: str) -> list[Any]:
    """What such a program says: whether it was possible, what the child told, how it ended, what it
    wrote to stderr."""
    program = PROGRAM.format(body=body.strip(), before=before)
    words = [sys.executable, *flags, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found: list[Any] = json.loads(line)
    return found


def test_it_has_what_a_new_process_would_have() -> None:
    possible, said, status, stderr = run(TELL)
    own = json.loads(said)
    ready = int(own["words"][2])
    assert own["words"] == ["x.toml", "--ready", str(ready), "--log-level", "info"]
    assert own["spec"] == {"name": "h"}
    assert own["fds"] == [0, 1, 2, ready]
    assert own["links"] == ["/dev/null", "/dev/null"]
    assert own["session"]
    assert own["path"] != "/some/bin"
    assert (possible, status, stderr) == (True, 3, "")


@pytest.mark.parametrize("kind", ["file", "pipe", "closed"])
def test_whatever_the_callers_stderr_is(kind: str, tmp_path: Path) -> None:
    """A stream that knows that it can seek cannot in a pipe."""
    before = {
        "file": f"os.dup2(os.open({str(tmp_path / 'said')!r}, os.O_RDWR | os.O_CREAT), 2)",
        "pipe": "os.dup2(os.pipe()[1], 2)",
        "closed": "os.close(2); sys.stderr = open(os.dup2(os.open(os.devnull, 1), 2), 'w')",
    }[kind]
    _, said, status, stderr = run("print('a word', file=sys.stderr)" + TELL, before)
    assert (status, stderr) == (3, "a word\n")
    assert json.loads(said)["session"]


def test_nothing_of_the_callers_is_done_in_it() -> None:
    before = """
real = forked.start
def start(*words):
    try:
        return real(*words)
    finally:
        if os.getpid() != own:
            os._exit(9)
own = os.getpid()
forked.start = start
"""
    assert run("return 3", before)[2] == 3


def test_it_has_no_descriptor_above_a_limit_that_was_lowered() -> None:
    before = """
os.dup2(0, 200)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""
    _, said, _, _ = run(TELL, before)
    assert 200 not in json.loads(said)["fds"]


def test_its_error_is_told_as_an_interpreter_tells_it() -> None:
    _, said, status, stderr = run('raise OSError(28, "no room")')
    assert (said, status) == ("", 1)
    assert stderr.startswith("Traceback")
    assert "no room" in stderr.splitlines()[-1]


def test_one_that_is_ended_by_a_signal() -> None:
    _, _, status, _ = run("os.kill(os.getpid(), signal.SIGTERM)")
    assert status == -signal.SIGTERM


def test_a_caller_that_ignores_the_end_of_children() -> None:
    """The kernel forgets it at once: there is no status, and no error."""
    _, _, status, _ = run("return 3", "signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    assert status == 0


ASKED = """
import os, sys, threading
from hostsim import forked

sys.argv[0], sys.path[0] = "/some/bin/hostsim", "/some/bin"
{before}
print(forked.possible(), flush=True)
os._exit(0)
"""
WAITS = "threading.Thread(target=os.read, args=(os.pipe()[0], 1)).start()"


@pytest.mark.parametrize(
    ("before", "possible"),
    [("pass", True), (WAITS, False), ("sys.path[0] = os.getcwd()", False)],
    ids=["a command", "it has threads", "python -m"],
)
def test_who_can_have_a_copy(before: str, possible: bool) -> None:
    words = [sys.executable, "-c", ASKED.format(before=before)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{possible}\n"
