# SPDX-License-Identifier: Apache-2.0
"""The look through the processes of an OS that loses its devices (cext/input/revoke.h) comes to an
end, whatever they hold, and takes no error for an answer. No input device is needed: /dev/full is
in its place, and who hides it in a way that nobody can look into is killed.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cext.input.revoke import Revoked, Revoker
from hostsim.kmc.direct import BUDGET
from hostsim.vm import Vm
from netns.process import Process

pytestmark = pytest.mark.root

MakeVm = Callable[..., Vm]
DEVICE = os.makedev(1, 7)  # /dev/full
LONG, SHORT = 60.0, 0.002  # seconds of our own time
STILL, PASSES = 20.0, 3

NEST = """
import os, socket
fd, inner = os.open("/dev/null", os.O_RDONLY), None
for level in range(4):
    a, b = socket.socketpair()
    socket.send_fds(a, [b"x"], [fd if inner is None else inner.fileno()] * WIDTH)
    a.close()
    inner = b
"""
"""A socket with WIDTH sockets in its queue, each with as many, and so on: WIDTH ** 4 ways."""

TABLE = """
import os, resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for _ in range(most - 100):
    os.dup(0)
"""

LEADERLESS = """
import ctypes, os, socket, threading
def run():
    fd = os.open("/dev/full", os.O_RDONLY)
    if QUEUED:
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [fd])
        os.close(fd)
    with open("/proc/self/status") as status:
        while "\\nState:\\tZ" not in status.read():
            os.sched_yield()
            status.seek(0)
    print("ready", flush=True)
    threading.Event().wait()
threading.Thread(target=run).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
"""
"""The first thread has ended, and the descriptors are another's."""

PAUSES = """
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
static timer_t timer;
static volatile int pauses;
static long own(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000 + t.tv_nsec;
}
static void soon(void) {
    struct itimerspec next = {.it_value = {.tv_nsec = 50000}};
    timer_settime(timer, 0, &next, NULL);
}
static void pause_now(int number) {
    for (long until = own() + 20000000; own() < until;)
        ;
    if (++pauses < 400)
        soon();
}
int begin(void) {
    struct sigaction act = {.sa_handler = pause_now, .sa_flags = SA_RESTART};
    struct sigevent to = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    to.sigev_notify_thread_id = syscall(SYS_gettid);
    pauses = 0;
    if (sigaction(SIGUSR2, &act, NULL) || timer_create(CLOCK_MONOTONIC, &to, &timer))
        return -1;
    soon();
    return 0;
}
int end(void) {
    timer_delete(timer);
    signal(SIGUSR2, SIG_IGN);
    return pauses;
}
"""
"""What a hypervisor does that has other guests: the thread stands still for 20 ms, again and again,
and its clock runs on. It ends: on a slow machine the thread gets no further between two pauses."""


@pytest.fixture
def revoker() -> Iterator[Revoker]:
    made = Revoker()
    yield made
    made.close()


def start(vm: Vm, code: str, **words: object) -> Process:
    """A program in the VM that has done `code`."""
    given = "".join(f"{name} = {value!r}\n" for name, value in words.items())
    wait = 'print("ready", flush=True)\nimport signal\nwhile True: signal.pause()\n'
    argv = [sys.executable, "-S", "-c", given + code + wait]
    program = vm.popen(argv, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    return program


def look(revoker: Revoker, loser: Vm, budget: float) -> Revoked:
    with revoker.holding(loser.cgroup) as hold:
        return revoker.revoke(hold, loser.cgroup.parent, [DEVICE], STILL, budget, PASSES)


@pytest.mark.parametrize(("width", "killed"), [(3, 0), (40, 1)])
def test_sockets_within_sockets(make_vm: MakeVm, revoker: Revoker, width: int, killed: int) -> None:
    """Few are looked into; the process that has more than anybody needs is killed."""
    vm = make_vm(os=True)
    program = start(vm, NEST, WIDTH=width)
    found = look(revoker, vm, LONG)
    assert (found.killed, found.clean, found.late) == (killed, True, False)
    assert (program.wait(20) if killed else program.poll()) == (-signal.SIGKILL if killed else None)
    assert vm.alive


@pytest.mark.parametrize("queued", [False, True])
def test_a_process_whose_first_thread_has_ended(
    make_vm: MakeVm, revoker: Revoker, queued: bool
) -> None:
    vm = make_vm(os=True)
    program = start(vm, LEADERLESS, QUEUED=queued)
    found = look(revoker, vm, LONG)
    assert (found.killed, found.clean) == (1, True)
    assert program.wait(20) == -signal.SIGKILL


def test_a_pause_of_the_machine_is_no_fault_of_an_os(
    make_vm: MakeVm, revoker: Revoker, tmp_path: Path
) -> None:
    """All together they are far longer than an OS may take; none of them is late, or killed."""
    loser, other = make_vm("loser", os=True), make_vm("other", os=True)
    for vm in (loser, other):
        start(vm, "")
    library = tmp_path / "pauses.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-", "-lrt"]
    subprocess.run(command, input=PAUSES.encode(), check=True)
    pauses = ctypes.CDLL(str(library))
    with revoker.holding(loser.cgroup) as hold:
        assert pauses.begin() == 0
        found = revoker.revoke(hold, loser.cgroup.parent, [DEVICE], STILL, BUDGET, PASSES)
        count = pauses.end()
    assert count * 0.02 > 2 * BUDGET, count
    assert (found.clean, found.late, found.killed) == (True, False, 0), count
    assert loser.alive
    assert other.alive


@pytest.fixture
def many_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert before[1] >= 10000, "a process may have too few descriptors for this to show anything"


@pytest.mark.usefixtures("many_descriptors")
def test_an_os_that_takes_too_long_is_late(make_vm: MakeVm, revoker: Revoker) -> None:
    """Whoever asked for the look then kills it (hostsim/kmc/direct.py)."""
    vm, other = make_vm("loser", os=True), make_vm("other", os=True)
    start(vm, TABLE)
    found = look(revoker, vm, LONG)
    assert (found.clean, found.late, found.killed) == (True, False, 0)
    found = look(revoker, vm, SHORT)
    assert (found.clean, found.late, found.killed) == (False, True, 0)
    vm.kill()
    found = look(revoker, vm, LONG)
    assert (found.clean, found.late) == (True, False)
    assert other.alive


@pytest.mark.usefixtures("many_descriptors")
def test_another_one_that_takes_too_long_is_killed(make_vm: MakeVm, revoker: Revoker) -> None:
    """And not the one that loses its devices, nor a third."""
    loser, slow, third = (make_vm(name, os=True) for name in ("loser", "slow", "third"))
    program = start(slow, TABLE)
    assert look(revoker, loser, LONG).killed == 0
    found = look(revoker, loser, SHORT)
    assert (found.clean, found.late, found.killed) == (True, False, 1)
    assert program.wait(20) == -signal.SIGKILL
    assert loser.alive
    assert third.alive
