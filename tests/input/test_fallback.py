# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the foreground OS's process 1: a whole host, with its daemon."""

import contextlib
import os
import signal
import time

import pytest

from hostsim.bench.seats import HOST, NAME, Mover, oses
from hostsim.cli import client
from hostsim.model import DeviceMode
from netns.evdevices import Feeder

AT_ONCE = 10.0
"""Seconds, of an emulated processor that others use too; the figure is printed. An OS that is
waited for, until its programs are reaped, never goes."""

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(600)]


@pytest.mark.parametrize("waits", [False, True], ids=["", "its program's parent is stopped"])
def test_the_other_os_has_the_equipment_at_once(mode: DeviceMode, waits: bool) -> None:
    """The kernel calls process 1 ended only when the parents of all programs in the OS have reaped
    theirs. `waits`: one of them, a `hostsim exec`, does not."""
    took = kill_the_foreground(mode, waits)
    print(f"{mode}: the other OS read an event {took} ms after the kill")
    assert took < 1000 * AT_ONCE


def kill_the_foreground(mode: DeviceMode, waits: bool) -> float:
    """Milliseconds from the kill to the first event in the other OS."""
    with contextlib.ExitStack() as stack:
        feeder = Feeder(f"{NAME} 0")
        stack.callback(feeder.close)
        first, other = stack.enter_context(oses(mode)).clients
        stack.callback(Mover([feeder], 500).close)
        daemon = client.hosts()
        first.tell("fresh")
        first.expect("first")
        status = client.ask(HOST, "status")
        assert status["foreground"] == "a"
        init = next(vm["pid"] for vm in status["vms"] if vm["name"] == "a")
        other.tell("fresh")
        if waits:
            os.kill(first.pid, signal.SIGSTOP)
            stack.callback(os.kill, first.pid, signal.SIGCONT)
        killed = time.monotonic_ns()
        os.kill(init, signal.SIGKILL)
        took = (other.expect("first") - killed) / 1e6
        assert client.ask(HOST, "status")["foreground"] == "b"
        assert client.hosts() == daemon
        return took
