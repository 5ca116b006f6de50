# SPDX-License-Identifier: Apache-2.0
"""`enter`, what stands behind `hostsim exec` and `hostsim shell`, as a user has it."""

import json
import os
import pty
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help.programs import program
from help.terminal import Terminal
from hostsim.vm import Vm

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]


def command(vm: Vm, *argv: str) -> list[str]:
    target = {"pid": vm.pid, "cgroups": [str(path) for path in vm.cgroups]}
    return program("enter", json.dumps(target), *argv)


def enter(vm: Vm, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(vm, *argv), input=stdin, capture_output=True, text=True, timeout=20, check=False
    )


@pytest.fixture
def terminal(vm: Vm) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(*argv: str) -> Terminal:
        opened.append(Terminal(command(vm, *argv)))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def test_streams_and_status(vm: Vm) -> None:
    done = enter(vm, "sh", "-c", "hostname; cat; echo err >&2; exit 7", stdin="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "a\nin\n", "err\n")
    assert enter(vm, "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert enter(vm, "true").returncode == 0


def test_it_is_in_all_of_the_vm(make_vm: MakeVm) -> None:
    vm = make_vm("b", pids=50, memory=64 << 20)
    done = enter(vm, "sh", "-c", "readlink /proc/self/ns/*; cat /proc/self/cgroup; ls /run/hostsim")
    assert done.returncode == 0
    for kind in ("mnt", "net", "pid", "uts", "ipc"):
        assert os.readlink(f"/proc/{vm.pid}/ns/{kind}") in done.stdout
    assert done.stdout.count(f"/hs-{vm.host}/b") == len(vm.cgroups)
    mask = next(
        line for line in Path(f"/proc/{vm.pid}/status").read_text().splitlines() if "CapBnd" in line
    )
    assert mask in enter(vm, "cat", "/proc/self/status").stdout


def test_it_ends_first_if_the_machine_has_no_memory(vm: Vm) -> None:
    assert enter(vm, "cat", "/proc/self/oom_score_adj").stdout == "500\n"


def test_no_such_command(vm: Vm) -> None:
    missing = enter(vm, "nosuch")
    assert (missing.returncode, missing.stderr) == (127, "hostsim: nosuch: not found in a\n")
    forbidden = enter(vm, "/etc/passwd")
    assert forbidden.returncode == 126
    assert forbidden.stderr.startswith("hostsim: /etc/passwd: cannot be executed in a: Permission")


def test_a_vm_that_is_gone(vm: Vm) -> None:
    words = command(vm, "true")
    vm.stop()
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("hostsim: a: is gone")
    assert len(done.stderr.splitlines()) == 1


def test_a_vm_that_is_frozen(vm: Vm) -> None:
    (vm.cgroup / "cgroup.freeze").write_text("1")
    done = enter(vm, "true")
    assert done.returncode == 1
    assert done.stderr.startswith("hostsim: a: is frozen")
    (vm.cgroup / "cgroup.freeze").write_text("0")
    assert enter(vm, "true").returncode == 0


def test_a_vm_that_is_held_still_for_a_moment(vm: Vm) -> None:
    (vm.cgroup / "cgroup.freeze").write_text("1")
    with subprocess.Popen(command(vm, "echo", "ran"), stdout=subprocess.PIPE) as client:
        events = f"/proc/{client.pid}/fd"
        end = time.monotonic() + 10
        while not any("cgroup.events" in link for link in links(events)):
            assert time.monotonic() < end
        (vm.cgroup / "cgroup.freeze").write_text("0")
        assert client.stdout is not None
        assert client.stdout.read() == b"ran\n"
        assert client.wait(10) == 0


def links(folder: str) -> list[str]:
    """What the symbolic links of a directory say."""
    found = []
    for path in Path(folder).iterdir():
        try:
            found.append(str(path.readlink()))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def test_a_vm_at_its_limit(make_vm: MakeVm) -> None:
    vm = make_vm("b", pids=1)
    done = enter(vm, "true")
    assert (done.returncode, done.stderr) == (1, "hostsim: true: b is at its limit of processes\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_passed_on(vm: Vm, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(command(vm, "sh", "-c", script), stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        assert client.stdout.readline() == b"got\n"
        assert client.wait(10) == 3


def test_a_killed_client_leaves_no_command(vm: Vm) -> None:
    with subprocess.Popen(command(vm, "sleep", "60"), stdin=subprocess.DEVNULL) as client:
        deadline = time.monotonic() + 10
        while vm.run(["pgrep", "-x", "sleep"]).returncode != 0:
            assert time.monotonic() < deadline
        client.kill()
    while vm.run(["pgrep", "-x", "sleep"]).returncode == 0:
        assert time.monotonic() < deadline


def test_the_vm_ends_under_a_command(vm: Vm) -> None:
    with subprocess.Popen(
        command(vm, "sh", "-c", "echo ready; sleep 60"), stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        vm.stop()
        assert client.wait(10) == 128 + signal.SIGKILL


def test_a_terminal_of_the_vm(vm: Vm, terminal: Callable[..., Terminal]) -> None:
    one = terminal("sh", "-c", "tty; stty size; exit 5")
    assert one.wait() == 5
    assert one.seen.split() == ["/dev/pts/0", "0", "0"]
    assert "not a tty" in enter(vm, "tty").stdout


def test_job_control(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("bash", "--norc", "-i")
    assert "job control" not in shell.expect("$ ")
    # Typed before a program has set the modes, a line would reach it in the shell's.
    shell.type("sh -c 'echo st''arted; exec cat'\n")
    shell.expect("started\r\n")
    shell.type("\x1a")
    shell.expect("Stopped")
    shell.expect("$ ")
    shell.type("fg\n")
    shell.expect("exec cat'\r\n")
    shell.type("two\n")
    shell.expect("two\r\ntwo\r\n")
    shell.type("\x03")
    shell.expect("$ ")
    shell.type("echo status $?\n")
    shell.expect(f"status {128 + signal.SIGINT}")
    shell.type("ps -o tty= -p $$; exit 4\n")
    shell.expect("pts/0")
    assert shell.wait() == 4


def test_the_window_size_follows(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("bash", "--norc", "-i")
    shell.expect("$ ")
    termios.tcsetwinsize(shell.fd, (33, 77))
    script = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.02; done; echo si''zed\n"
    shell.type(script)
    shell.expect("sized")


def test_nothing_that_was_written_is_lost(terminal: Callable[..., Terminal]) -> None:
    """The command ends right after its last write, and much is under way."""
    one = terminal("sh", "-c", "seq 20000; echo end")
    assert one.wait() == 0
    assert one.seen.split() == [*(str(number) for number in range(1, 20001)), "end"]


def test_much_that_is_typed(terminal: Callable[..., Terminal]) -> None:
    """More than a terminal buffers: it is held back, not lost."""
    one = terminal("sh", "-c", "stty raw -echo; echo go; head -c 100000 | wc -c")
    one.expect("go")
    os.set_blocking(one.fd, True)
    left = b"x" * 100000
    while left:
        left = left[os.write(one.fd, left[:1000]) :]
    one.expect("100000")
    assert one.wait() == 0


def test_the_terminal_is_as_before(vm: Vm) -> None:
    """The modes of ours after the command: not raw."""
    script = 'before=$(stty -g); "$@"; [ "$(stty -g)" = "$before" ] && echo same'
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(
            "sh", ["sh", "-c", script, "sh", *command(vm, "sh", "-c", "stty raw; kill -9 $$")]
        )
    said = b""
    while True:
        try:
            data = os.read(fd, 4096)
        except OSError:
            break
        said += data
    os.waitpid(pid, 0)
    os.close(fd)
    assert said.split() == [b"same"]


def test_a_number_that_is_another_process_by_now(make_vm: MakeVm, tmp_path: Path) -> None:
    """The VM has gone since the daemon told its number, and somebody else has that: nothing runs
    there, neither on the machine nor in another VM."""
    one, two = make_vm("one"), make_vm("two")
    with subprocess.Popen(["sleep", "60"]) as other:
        for pid in (other.pid, two.pid):
            target = {"pid": pid, "cgroups": [str(path) for path in one.cgroups]}
            words = program("enter", json.dumps(target), "touch", str(tmp_path / "ran"))
            done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
            assert (done.returncode, done.stderr[:21]) == (1, "hostsim: one: is gone")
            assert not (tmp_path / "ran").exists()
        other.kill()


MEDDLE = "for fd in 0 1 2; do chmod 777 /proc/self/fd/$fd; echo x >> /proc/self/fd/$fd; done"
"""What user 0 of a VM makes of the files that it was handed."""


def test_what_is_the_machines_is_not_handed_over(vm: Vm, tmp_path: Path) -> None:
    """By a descriptor, a program changes the file's mode, or opens it anew for writing."""
    source, out = tmp_path / "source", tmp_path / "out"
    for file in (source, out):
        file.write_text("the machine's\n")
        file.chmod(0o644)
    here, there = socket.socketpair()
    with source.open() as stdin, out.open("a") as stdout, here:
        with there:
            words = command(vm, "sh", "-c", f"{MEDDLE}; readlink /proc/self/fd/[012]")
            done = subprocess.run(words, stdin=stdin, stdout=stdout, stderr=there.fileno())
        assert done.returncode == 0
        assert here.recv(4096).startswith(b"x")
    assert source.read_text() == "the machine's\n"
    assert [path.stat().st_mode & 0o7777 for path in (source, out)] == [0o644, 0o644]
    assert out.read_text().count("pipe:[") == 3
    # handed over all the same, by one who has the choice, it is lost
    with source.open("rb") as stdin:
        started = vm.popen(["sh", "-c", MEDDLE], stdin=stdin, stdout=-3, stderr=-3)
        started.wait(10)
    assert source.stat().st_mode & 0o7777 == 0o777
    assert source.read_text() == "the machine's\nx\n"


def test_what_a_command_leaves_of_a_file_is_the_next_ones(vm: Vm, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one\ntwo\nthree\n")
    with file.open("rb", buffering=0) as source:
        for line in ("one", "two", "three"):
            words = command(vm, "sh", "-c", "read line; echo $line")
            done = subprocess.run(words, stdin=source, capture_output=True, text=True, check=True)
            assert done.stdout == f"{line}\n"
    assert enter(vm, "wc", "-c", stdin="x" * 300000).stdout == "300000\n"
    with file.open("wb") as big:
        big.write(b"x" * 300000)
    with file.open("rb") as source:
        counted = subprocess.run(command(vm, "wc", "-c"), stdin=source, capture_output=True)
    assert counted.stdout == b"300000\n"


def test_both_outputs_in_one_file_keep_their_order(vm: Vm, tmp_path: Path) -> None:
    script = "for i in $(seq 300); do echo $i; echo $i >&2; done; exit 3"
    with (tmp_path / "out").open("wb") as out:
        words = command(vm, "sh", "-c", script)
        assert subprocess.run(words, stdout=out, stderr=out, check=False).returncode == 3
    numbers = (tmp_path / "out").read_text().split()
    assert numbers == [str(i) for i in range(1, 301) for _ in range(2)]


def test_a_secret_of_ours_is_not_told(vm: Vm) -> None:
    ours = {**os.environ, "SSH_AUTH_SOCK": "/tmp/x", "LD_PRELOAD_X": "y", "LC_TIME": "C"}
    words = command(vm, "env")
    done = subprocess.run(words, env=ours, capture_output=True, text=True, check=True)
    told = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert {"PATH", "LC_TIME"} <= told
    assert not told & {"SSH_AUTH_SOCK", "LD_PRELOAD_X"}
    assert told <= {*ours, "PWD", "SHLVL", "_"}


@pytest.mark.parametrize(
    "how", ["{} < /dev/null", "{} | cat", "{} 2>&1 | cat", "set -m; {} & wait", "echo | {}"]
)
def test_a_part_of_the_machines_terminal_stays_out_too(vm: Vm, how: str) -> None:
    """Some of the descriptors are our terminal, or we are in its background."""
    script = "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; echo err >&2"
    one = Terminal(["/bin/sh", "-c", how.format('"$@"'), "sh", *command(vm, "sh", "-c", script)])
    try:
        assert one.wait() == 0
        assert one.seen.count("pipe:[") == 3, one.seen
        assert "/dev" not in one.seen
        assert "err" in one.seen
    finally:
        one.close()


def test_the_machines_terminal_stays_out(terminal: Callable[..., Terminal]) -> None:
    """No descriptor of the command is a terminal of the machine: it could type into it."""
    one = terminal("sh", "-c", "readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2")
    assert one.wait() == 0
    assert one.seen.split() == ["/dev/pts/0"] * 3
