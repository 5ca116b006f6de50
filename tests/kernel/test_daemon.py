# SPDX-License-Identifier: Apache-2.0
"""A daemon's life: whenever and however it ends, nothing is left, nothing of others is touched, and
whoever asked reads one line that says what happened and what to do."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, hostsim, plugged_nic, run
from help.programs import PROGRAMS
from help.waiting import until
from netns import cgroup, namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NAME = "hslife"
FOLDER = Path("/run/hostsim") / NAME
SLOW = """
[host]
name = "hslife"
[[vm]]
name = "one"
run = "sleep 1000"
[[vm]]
name = "two"
run = "sleep 1000"
"""
"""A program that neither ends nor listens keeps `up` waiting for a second."""
QUICK = '[host]\nname = "hslife"\n[[vm]]\nname = "one"\n'


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "slow.toml"
    file.write_text(SLOW)
    yield str(file)
    down_at_last()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A host that is up; its file. The test takes it down."""
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    hostsim("up", str(file))
    yield file
    down_at_last()


def down_at_last() -> None:
    """The test has taken its host down; if not, it fails, and the next one finds nothing."""
    left = FOLDER.exists()
    if left:
        hostsim("down", NAME, check=False)
        hostsim("clean", check=False)
    assert not left


def going_up(file: str) -> "subprocess.Popen[str]":
    """Of a shell's background job SIGINT is ignored (sh(1)), and this may be part of one."""
    words = ("env", "--default-signal=INT", HOSTSIM, "up", file)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def daemon() -> int:
    """The daemon's pid, 0 while there is none."""
    found = [row["pid"] for row in ask("ls") if row["host"] == NAME]
    return int(found[0]) if found else 0


def test_a_host_file_that_can_be_read_once(tmp_path: Path) -> None:
    """From standard input, and from a pipe that the shell names; programs run where it is typed."""
    text = QUICK.replace(
        '"one"', '"one"\nshare = ["."]\nrun = "sh -c \'pwd > where; exec sleep 99\'"'
    )
    for typed in (f"{HOSTSIM} up -", f"{HOSTSIM} up <(cat)"):
        words = ("bash", "-c", typed)
        subprocess.run(words, input=text, text=True, check=True, timeout=60, cwd=tmp_path)
        try:
            assert (tmp_path / "where").read_text() == f"{tmp_path}\n"
            (tmp_path / "where").unlink()
            applied = subprocess.run(
                (HOSTSIM, "routes", "apply", "-"),
                input=text + "[[route]]\nmatch = { proto = 'tcp' }\nthrough = ['one']\n",
                text=True,
                check=True,
                capture_output=True,
                timeout=60,
            )
            assert applied.stdout.startswith("1 routes in force")
        finally:
            hostsim("down")


MOMENTS: dict[str, Callable[[], object]] = {
    "claimed": daemon,
    "writing": lambda: (FOLDER / "journal").exists(),
    "running": lambda: (FOLDER / "two.log").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_builds(slow: str, moment: str, number: int) -> None:
    with going_up(slow) as up:
        pid = until(daemon)
        until(MOMENTS[moment])
        os.kill(pid, number)
        said, why = up.communicate(timeout=60)
    assert (up.returncode, said) == (1, "")
    assert why.startswith("hostsim: up")
    assert "ended by a signal" in why
    assert why.count("\n") == 1
    assert not FOLDER.exists()


def test_ctrl_c_while_it_builds(slow: str) -> None:
    with going_up(slow) as up:
        until(MOMENTS["writing"])
        up.send_signal(signal.SIGINT)
        _, why = up.communicate(timeout=60)
    assert why == f"hostsim: up {slow}: interrupted; what was built is taken down again\n"
    assert not FOLDER.exists()


def test_whoever_asked_for_it_is_killed_while_it_builds(slow: str) -> None:
    with going_up(slow) as up:
        until(MOMENTS["running"])
        up.kill()
    until(lambda: not FOLDER.exists(), 30, "the daemon takes down what nobody waits for")


def test_an_error_that_nobody_expected(tmp_path: Path) -> None:
    """It is one line that says where it comes from, and the host goes down as ever."""
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    program = str(PROGRAMS / "broken_daemon.py")
    done = run(sys.executable, program, str(file), "-1", "4", "unexpected", check=False)
    assert done.returncode == 1
    why = done.stderr.splitlines()[-1]
    assert why.startswith(f"hostsim: up {file}: KeyError: 'ended by a test' (broken_daemon.py:")
    assert "hostsim up --foreground shows where it comes from" in why
    assert "Traceback" in done.stderr
    assert not FOLDER.exists()


def state() -> str | None:
    """Of the host, as `ls` shows it."""
    return next((row["state"] for row in ask("ls") if row["host"] == NAME), None)


def test_a_host_that_is_being_built_is_busy_and_can_be_taken_down(slow: str) -> None:
    with going_up(slow) as up:
        until(MOMENTS["running"])
        assert state() == "busy"
        asked = hostsim("status", NAME, check=False)
        assert asked.returncode == 1
        assert asked.stderr.startswith("hostsim: host hslife: is being built or taken down;")
        assert hostsim("down", NAME).stdout == "host hslife is down\n"
        up.communicate(timeout=60)
    assert up.returncode == 1
    assert state() is None


def test_the_host_may_be_named_as_a_word(host: Path) -> None:
    for command in ("status", "devices", "flows", "rules", "verify"):
        hostsim(command, NAME)
        wrong = hostsim(command, "nobody", check=False)
        assert wrong.stderr == "hostsim: host nobody: is not up; up: hslife\n"
    assert hostsim("down", NAME).stdout == "host hslife is down\n"


def test_clean_beside_a_host_that_is_up_and_folders_of_nobody(host: Path) -> None:
    mine = FOLDER.parent / "mine"
    (mine / "more").mkdir(parents=True)
    (FOLDER.parent / "empty").mkdir()
    try:
        assert hostsim("clean").stdout == "nothing to clean\n"
        assert (mine / "more").is_dir()
        assert not (FOLDER.parent / "empty").exists()
        assert state() == "up"
    finally:
        (mine / "more").rmdir()
        mine.rmdir()
        hostsim("down")


@contextlib.contextmanager
def connected(first: bytes) -> Iterator[None]:
    """A client that sends this, reads nothing, and stays."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(FOLDER / "control.sock"))
        client.sendall(first)
        yield


STATUS = b'{"op": "status"}\n'


@pytest.mark.parametrize(
    "first",
    [b"", b'{"op": "sta', STATUS * 2000],
    ids=["says-nothing", "says-half-a-line", "reads-nothing"],
)
@pytest.mark.parametrize("how", ["down", "SIGTERM"])
def test_it_goes_down_beside_a_client_that(host: Path, first: bytes, how: str) -> None:
    with connected(first):
        if how == "down":
            hostsim("down")
        else:
            os.kill(until(daemon), signal.SIGTERM)
        until(lambda: not FOLDER.exists(), 20, "the daemon has ended")


def test_it_goes_down_beside_things_of_others(host: Path) -> None:
    """Files and folders that somebody has put into its folder."""
    (FOLDER / "notes").write_text("mine")
    (FOLDER / "more" / "still").mkdir(parents=True)
    (FOLDER / "nowhere").symlink_to("/nonexistent")
    hostsim("down")


def test_a_file_in_the_way_of_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    FOLDER.parent.mkdir(exist_ok=True)
    FOLDER.write_text("")
    try:
        done = hostsim("up", str(file), check=False)
        assert done.returncode == 1
        assert done.stderr == (
            "hostsim: up quick.toml: its folder /run/hostsim/hslife cannot be made: "
            "/run/hostsim/hslife: File exists\n"
        )
        assert ask("ls") == []
        hostsim("clean")
        assert FOLDER.is_file()
    finally:
        FOLDER.unlink()


COLLIDING = [
    ("hslife", "edge-fw", "hslife-edge", "fw"),
    ("hslife", "edge-switch", "hslife-edge", "one"),
    ("hslife-edge", "one", "hslife", "edge-switch"),
]


@pytest.mark.parametrize(("first", "its", "second", "other"), COLLIDING)
def test_a_host_that_cannot_be_built_leaves_another_host_alone(
    tmp_path: Path, first: str, its: str, second: str, other: str
) -> None:
    """Two hosts whose namespaces would have one name: the second is refused, the first runs on."""
    files = []
    for host, vm in ((first, its), (second, other)):
        files.append(tmp_path / f"{host}.toml")
        files[-1].write_text(f'[host]\nname = "{host}"\n[[vm]]\nname = "{vm}"\n')
    hostsim("up", str(files[0]))
    try:
        before = ask("--host", first, "status")
        refused = hostsim("up", str(files[1]), check=False)
        assert refused.returncode == 1
        assert "exists already" in refused.stderr
        assert "choose another name" in refused.stderr
        assert refused.stderr.count("\n") == 1
        after = ask("--host", first, "status")
        for key in ("vms", "foreground"):
            assert after[key] == before[key]
        assert [vm["state"] for vm in after["vms"]] == ["running"]
        run("ip", "netns", "exec", after["switch"]["netns"], "true")
    finally:
        hostsim("--host", first, "down")


def test_what_somebody_made_by_hand_stays(tmp_path: Path) -> None:
    """A namespace or a cgroup that has the name of one of the host's."""
    file = tmp_path / "quick.toml"
    file.write_text(QUICK)
    run("ip", "netns", "add", "hs-hslife-one")
    try:
        inode = (namespace.RUN / "hs-hslife-one").stat().st_ino
        done = hostsim("up", str(file), check=False)
        assert "a network namespace hs-hslife-one exists already" in done.stderr
        assert (namespace.RUN / "hs-hslife-one").stat().st_ino == inode
    finally:
        run("ip", "netns", "del", "hs-hslife-one")
    root = cgroup.layout().v2
    assert root is not None
    group = root / "hs-hslife" / "one"
    group.mkdir(parents=True)
    try:
        done = hostsim("up", str(file), check=False)
        assert f"a cgroup {group} exists already" in done.stderr
        assert group.is_dir()
    finally:
        group.rmdir()
        group.parent.rmdir()


def test_down_says_what_could_not_go_home(tmp_path: Path) -> None:
    file = tmp_path / "lent.toml"
    file.write_text(QUICK + '[switch]\nuplinks = ["hslife0"]\n')
    with plugged_nic("hslife0", "hslife1", "hslife-net", "198.18.0.99/24", keep=True):
        hostsim("up", str(file))
        try:
            run("ip", "link", "add", "hslife0", "type", "bridge")
            done = hostsim("down", check=False)
            assert done.returncode == 1
            assert done.stderr.startswith("hostsim: down hslife: could not remove: uplink hslife0")
            assert "hostsim clean" in done.stderr
            assert [row["state"] for row in ask("ls")] == ["dead"]
        finally:
            hostsim("down", check=False)
            run("ip", "link", "del", "hslife0")
            cleaned = hostsim("clean").stdout
        assert cleaned == "cleaned: hslife\n"
