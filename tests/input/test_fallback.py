"""kill -9 of the foreground OS's process 1: a whole host, with its daemon."""

import os
import signal
import time

import pytest

from hostsim import client
from hostsim.bench.seats import HOST, NAME, Mover, oses
from netns.evdevices import Feeder

pytestmark = [pytest.mark.uinput, pytest.mark.timeout(240)]


def test_the_other_os_has_the_equipment_within_a_second(mode: str) -> None:
    feeder = Feeder(f"{NAME} 0")
    try:
        with oses(mode) as pair:
            daemon = [entry["pid"] for entry in client.hosts() if entry["host"] == HOST]
            mover = Mover([feeder], 500)
            try:
                pair.clients[0].tell("fresh")
                pair.clients[0].expect("first")
                status = client.ask(HOST, "status")
                assert status["foreground"] == "a"
                init = next(vm["pid"] for vm in status["vms"] if vm["name"] == "a")
                pair.clients[1].tell("fresh")
                killed = time.monotonic_ns()
                os.kill(init, signal.SIGKILL)
                took = (pair.clients[1].expect("first") - killed) / 1e6
                print(f"{mode}: {took:.0f} ms after the kill, the other OS read an event")
                assert took < 1000
                assert client.ask(HOST, "status")["foreground"] == "b"
                assert [entry["pid"] for entry in client.hosts()] == daemon
            finally:
                mover.close()
    finally:
        feeder.close()
