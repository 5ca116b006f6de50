# SPDX-License-Identifier: Apache-2.0
"""What an OS does to keep a device that it has opened, past the look through open files
(cext/input/revoke.c and found.c): each try fails, and succeeds where the one piece of that code
against it is left out. The product has no switch for this: a copy of the source is changed and
compiled.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cffi import FFI

import cext.input.revoke
from cext.input.revoke import Hold, Revoked, Revoker
from help.rig import DEADLINE, Puppet, Reader, Rig, Typist, spec
from help.waiting import becomes, until
from hostsim.kmc import direct
from hostsim.model import OsSpec
from hostsim.vm import Vm

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]

CEXT = Path(__file__).parents[2] / "cext"
SOURCES = CEXT / "input"
Patch = pytest.MonkeyPatch

QUEUES = {"if (!wanted && (job->mode == HS_NOTE_READERS || !S_ISSOCK(st.st_mode)))": "if (!wanted)"}
DEEPER = {"look_into(job, fd, depth + 1);": "if (depth == 0) look_into(job, fd, 9 * (depth + 1));"}
HIDDEN = {"if (job->count->hidden != hidden)": "if (false)"}
THREADS = {"has_threads(pid) && threads_hide(job, pid))": "has_threads(pid) && false)"}
THREADS_QUEUES = {"wanted || hs_found_waiting(path, number) > 0;": "wanted;"}
COUNTED = {  # how many have it, and not who
    "return hs_clients_others(clients, known, n) == 0;\n}\n\n/* Who": (
        "return hs_clients_others(clients, known, 2) == (int)n - 2;\n}\n\n/* Who"
    ),
    "ioctl(fd, EVIOCGVERSION, &version) < 0)\n        return false;\n    for": (
        "(version = 0))\n        return false;\n    for"
    ),
    "syscall(SYS_kcmp, self, self, KCMP_FILE, fd, readers->fd[i]) == 0": "false",
}
CLIENTS = {"== 0;\n    return nobody": ">= 0;\n    return nobody"}
FREEZE = {
    'else if (write(hold->control, "1", 1) < 0)': "else if (false)",
    "still = hs_hold_rests(hold, still_ms);": "still = true; (void)still_ms;",
}


@pytest.fixture(params=[True, False], ids=["defended", "defence out"])
def defended(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def leave_out(tmp_path: Path, monkeypatch: Patch) -> Callable[[dict[str, str]], None]:
    """leave_out({code: what stands there instead}): from now on revokes go without."""

    def change(pieces: dict[str, str]) -> None:
        names = ("revoke.c", "clients.c", "found.c", "hold.c", "keeper.c")
        texts = {name: (SOURCES / name).read_text() for name in names}
        for code, other in pieces.items():
            (found,) = [name for name, text in texts.items() if code in text]
            assert texts[found].count(code) == 1, code
            texts[found] = texts[found].replace(code, other)
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        library = tmp_path / "revoke.so"
        command = ["cc", "-O1", "-shared", "-fPIC", "-pthread", f"-I{CEXT}", "-o", str(library)]
        subprocess.run([*command, *(str(tmp_path / name) for name in texts)], check=True)
        ffi = FFI()
        ffi.cdef(re.sub("(?m)^#.*$", "", (SOURCES / "revoke.cdef").read_text()))
        monkeypatch.setattr(cext.input.revoke, "ffi", ffi)
        monkeypatch.setattr(cext.input.revoke, "lib", ffi.dlopen(str(library)))

    return change


class Scene(NamedTuple):
    rig: Rig
    keyboard: Typist
    attacker: Puppet  # in work, which has the keyboard
    play: Reader


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], Scene]]:
    """started(): the OSes are up, and the KMC has a keyboard."""
    rigs: list[Rig] = []

    def start() -> Scene:
        rig = Rig(spec("direct"), tmp_path)
        rigs.append(rig)
        rig.start()
        keyboard = rig.typist("keyboard", "Test Keyboard")
        until(rig.devices, DEADLINE, "the KMC has the keyboard")
        return Scene(rig, keyboard, Puppet(rig.vms["work"]), rig.reader("play"))

    yield start
    for rig in rigs:
        rig.stop()


def reads(attacker: Puppet, *words: str) -> bool:
    """Whether it has read anything: one that was killed has not."""
    try:
        answer = attacker(*words)
    except BrokenPipeError:
        return False
    assert answer.isdigit() or answer in ("", "ENODEV", "EAGAIN"), answer
    return answer.isdigit() and int(answer) > 0


@pytest.mark.parametrize(
    ("how", "pieces"),
    [
        ("queue", QUEUES),
        ("nested", DEEPER | HIDDEN),
        ("many", HIDDEN),
        ("backlog", HIDDEN),
        ("thread", THREADS),
        ("thread-queue", THREADS_QUEUES),
        ("queue", CLIENTS),
    ],
)
def test_a_hidden_descriptor_reads_nothing(
    leave_out: Callable[[dict[str, str]], None],
    started: Callable[[], Scene],
    defended: bool,
    how: str,
    pieces: dict[str, str],
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr(direct, "STILL", 20.0)  # the kernel is asked of an OS at rest only
    if not defended:
        leave_out(pieces)
    rig, keyboard, attacker, play = started()
    assert attacker("hide", how, keyboard.node) == "done"
    rig.flip("play")
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    keyboard("tap KEY_A")
    becomes(play.pressed, [(30, 1), (30, 0)], DEADLINE, "play reads")
    assert reads(attacker, "find", how) is not defended
    assert rig.vms["work"].alive


def test_nobody_is_looked_through_if_the_kernel_knows_that_nobody_has_it(
    started: Callable[[], Scene], monkeypatch: Patch
) -> None:
    whole = Revoker.revoke
    looks: list[Revoked] = []

    def revoke(self: Revoker, *rest: Any) -> Revoked:
        looks.append(whole(self, *rest))
        return looks[-1]

    monkeypatch.setattr(Revoker, "revoke", revoke)
    monkeypatch.setattr(direct, "STILL", 20.0)
    rig, keyboard, attacker, play = started()
    readers = {"play": play, "work": rig.reader("work")}
    becomes(readers["work"].opened, 1, DEADLINE, "work has the keyboard")

    def quick() -> bool:
        looks.clear()
        for name in ("play", "work"):
            rig.flip(name)
            becomes(readers[name].opened, 1, DEADLINE, f"{name} has the keyboard")
        return not looks

    until(quick, DEADLINE, "nobody is looked through")
    assert attacker("hide", "queue", keyboard.node) == "done"
    rig.flip("play")
    becomes(play.opened, 1, DEADLINE, "play has it again")
    assert looks
    assert looks[-1].clean


@pytest.mark.parametrize("how", ["twice", "revoke", "path"])
def test_what_reads_nothing_stands_for_no_reader(
    leave_out: Callable[[dict[str, str]], None],
    started: Callable[[], Scene],
    defended: bool,
    how: str,
) -> None:
    """A program has a descriptor more than open files, or one that is no reader's, where readers
    were found before. Defence: the kernel is told who they are, and not how many."""
    if not defended:
        leave_out(COUNTED)
    rig, keyboard, attacker, play = started()
    assert rig.kmc._plugs is not None
    driver = rig.kmc._plugs.direct
    revoker = driver._revoker
    assert revoker is not None
    fd = attacker("open", keyboard.node)
    if how == "twice":
        assert attacker("twice", fd).isdigit()
    rig.now(lambda: driver.ask("work"))
    if how == "revoke":
        assert attacker("revoke", fd) == "done"
    elif how == "path":
        assert attacker("close", fd) == "done"
        rig.now(revoker.forget)
        becomes(lambda: revoker.kept, 0, DEADLINE, "our copy is closed")
        assert attacker("path", keyboard.node) == fd
    other = rig.reader("work")
    becomes(other.opened, 1, DEADLINE, "another program has it too")
    other.process.send_signal(signal.SIGSTOP)
    keyboard("tap KEY_A")
    if how == "twice":
        until(lambda: reads(attacker, "read", fd), DEADLINE, "the first reads")
    rig.now(lambda: driver.ask("work"))
    assert (rig.now(lambda: driver.unread("work")) == 1) is defended
    flip = rig.begin(rig.kmc.flip("play", "test"))
    other.process.send_signal(signal.SIGCONT)
    assert flip.result(DEADLINE)["foreground"] == "play"
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    becomes(other.opened, 0, DEADLINE, "the other program has not")
    keyboard("tap KEY_A")
    becomes(play.pressed, [(30, 1), (30, 0)], DEADLINE, "play reads")
    assert how == "path" or not reads(attacker, "read", fd)
    assert not defended or other.pressed() == [(30, 1), (30, 0)]  # before the flip


def standing_for(pid: int) -> int:
    """How many descriptors of ours stand for a process (pidfd_open(2))."""
    count = 0
    for name in os.listdir("/proc/self/fdinfo"):
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"/proc/self/fdinfo/{name}").read_text()
            count += f"\nPid:\t{pid}\n" in text
    return count


def test_of_an_os_that_has_left_nothing_is_kept(
    started: Callable[[], Scene], defended: bool, monkeypatch: Patch
) -> None:
    """Where its readers were found, by descriptors that stand for its processes."""
    if not defended:
        monkeypatch.setattr(direct.Direct, "_forget_places", lambda *_: None)
    rig, *_ = started()
    vm = rig.join("rest", OsSpec())
    rest = rig.reader("rest")
    before = standing_for(rest.process.pid)
    rig.flip("rest")
    becomes(rest.opened, 1, DEADLINE, "rest has the keyboard")
    rig.flip("work")
    assert standing_for(rest.process.pid) == before + 1
    rig.leave("rest")
    assert standing_for(rest.process.pid) == before + (not defended)
    vm.stop()


RUNNERS, FLIPS = 2, 10


def test_a_descriptor_that_runs_from_process_to_process_reads_nothing(
    leave_out: Callable[[dict[str, str]], None],
    started: Callable[[], Scene],
    defended: bool,
    tmp_path: Path,
) -> None:
    """Defence: the OS is frozen while it is looked through."""
    if not defended:
        leave_out(FREEZE)
    rig, keyboard, attacker, play = started()
    out = tmp_path / "out"
    out.touch()
    for _ in range(FLIPS if defended else 8 * FLIPS):  # it is a matter of luck, and of being many
        for _ in range(RUNNERS if defended else 4 * RUNNERS):
            assert attacker("run", keyboard.node, str(out)) == "done"
        rig.flip("play")
        becomes(play.opened, 1, DEADLINE, "play has the keyboard")
        before = len(play.pressed())
        keyboard("tap KEY_A")
        becomes(lambda: len(play.pressed()), before + 2, DEADLINE, "play reads")
        rig.flip("work")
        becomes(play.opened, 0, DEADLINE, "play has lost it")
        if not defended and out.stat().st_size:
            break
    assert (out.stat().st_size > 0) is not defended


def test_an_os_that_holds_on_is_killed_before_another_has_the_device(
    started: Callable[[], Scene], defended: bool, monkeypatch: Patch
) -> None:
    """The look through it comes to no end: here, the first does nothing and says so. Defence: the
    OS is killed, and looked through again; the driver goes out of use where that does not do."""
    whole, answers = Revoker.revoke, [Revoked(0, 1, 0, 0, 50, True, False)]

    def first_without(self: Revoker, hold: Hold, *rest: Any) -> Revoked:
        return answers.pop() if answers else whole(self, hold, *rest)

    monkeypatch.setattr(Revoker, "revoke_noted", lambda *_: (False, (0,)))
    monkeypatch.setattr(Revoker, "revoke", first_without)
    if not defended:
        answers *= 2
        answers[0] = Revoked(0, 0, 0, 0, 1, False, True)  # the second look says that all is well
        monkeypatch.setattr(Vm, "kill", lambda _: None)
    rig, keyboard, attacker, play = started()
    fd = attacker("open", keyboard.node)
    rig.flip("play")
    becomes(play.opened, 1, DEADLINE, "play has the keyboard")
    keyboard("tap KEY_A")
    becomes(play.pressed, [(30, 1), (30, 0)], DEADLINE, "play reads")
    assert reads(attacker, "read", fd) is not defended
    if defended:
        until(lambda: not rig.vms["work"].alive, DEADLINE, "work is dead")


def test_what_nobody_can_take_away_nobody_else_gets(
    started: Callable[[], Scene], monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with the OS killed, the devices are found open: somebody else in the host has them."""
    never = Revoked(0, 1, 0, 0, 50, True, False)
    rig, *_ = started()
    monkeypatch.setattr(Revoker, "revoke_noted", lambda *_: (False, (0,)))
    monkeypatch.setattr(Revoker, "revoke", lambda *_: never)
    assert rig.flip("play")["foreground"] == "play"
    assert not any(row["owner"] for row in rig.devices())  # one that waits is named
    assert rig.vms["play"].run(["ls", "/dev/input"]).stdout == b""
    rig.typist("keyboard", "Test Keyboard 2")
    until(
        lambda: "direct mode are out of use" in caplog.text,
        DEADLINE,
        "nor a device that comes later",
    )
    assert rig.flip("work")["foreground"] == "work"
    assert not any(row["owner"] for row in rig.devices())  # one that waits is named
