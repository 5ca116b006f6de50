# SPDX-License-Identifier: Apache-2.0
"""Forwarding of input events: how late an event is at the clone, and how many pass in a second.

A device made through uinput is forwarded to one clone, once by hostsim's forwarder and once by
interception-tools (`interception -g NODE | uinput -d NODE`). Latency is taken from the time before
the event is written to the source, to the kernel's own time stamp of the event at the clone
(EVIOCSCLOCKID, CLOCK_MONOTONIC): no reader's speed is in it. Needs /dev/uinput.
"""

import argparse
import contextlib
import os
import select
import shutil
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

from cext.input.forward import Forwarder
from hostsim.bench import common
from hostsim.errors import HostsimError
from hostsim.model import Json
from netns import uinput
from netns.evdevices import Feeder, Source
from netns.uinput import Clone

EVENTS = 1000
RATE_EVENTS = 19_200
BATCH = 32  # frames of one write, for the rate: half of what an evdev reader's buffer holds
GAP = 1  # milliseconds between two events, for the latency
DEADLINE = 10.0
NAME = "hostsim bench input"

_EVENT = struct.Struct("llHHi")
_EV_REL = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hostsim bench input`."""
    common.add_arguments(parser, ["forward/p50", "forward/p99", "rate"])


def run(options: argparse.Namespace) -> Json:
    """Measure; the document of the contract. Raises HostsimError."""
    if not uinput.available():
        raise HostsimError("bench input", "this kernel has no /dev/uinput", "use scripts/testvm")
    peer = bool(shutil.which("interception") and shutil.which("uinput"))

    def case(name: str, unit: str, measure: Callable[[int], float]) -> common.Case:
        peers: dict[str, common.Measure] = {}
        if peer:
            peers["interception"] = lambda: _measured(_interception, measure)
        return common.Case(name, unit, lambda: _measured(_ours, measure), peers)

    cases = [
        case("forward/p50", "us", lambda fd: _latency(fd, 50)),
        case("forward/p99", "us", lambda fd: _latency(fd, 99)),
        case("rate", "events/s", _rate),
    ]
    return common.run("input", cases, options)


_feeder: Feeder


def _measured(
    forward: Callable[[Feeder], contextlib.AbstractContextManager[str]],
    measure: Callable[[int], float],
) -> float:
    """One run: a source, something that forwards it, and a reader on the clone's node."""
    global _feeder
    with contextlib.ExitStack() as stack:
        _feeder = Feeder(NAME)
        stack.callback(_feeder.close)
        node = stack.enter_context(forward(_feeder))
        reader = Source(node)
        stack.callback(reader.close)
        reader.monotonic()
        return measure(reader.fileno())


@contextlib.contextmanager
def _ours(feeder: Feeder) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        source = Source(feeder.node)
        stack.callback(source.close)
        source.grab()
        clone = Clone(source)
        stack.callback(clone.close)
        forwarder = Forwarder(1)
        stack.callback(forwarder.close)
        forwarder.add(source.fileno(), [clone.fileno()])
        forwarder.take(0)
        yield f"/dev/input/{clone.sysname}"


@contextlib.contextmanager
def _interception(feeder: Feeder) -> Iterator[str]:
    before = set(os.listdir("/dev/input"))
    first = subprocess.Popen(["interception", "-g", feeder.node], stdout=subprocess.PIPE)
    assert first.stdout is not None
    second = subprocess.Popen(["uinput", "-d", feeder.node], stdin=first.stdout)
    first.stdout.close()
    try:
        end = time.monotonic() + DEADLINE
        while not (new := [n for n in set(os.listdir("/dev/input")) - before if "event" in n]):
            if time.monotonic() > end or first.poll() is not None or second.poll() is not None:
                raise HostsimError("bench input", "interception-tools made no device")
            os.sched_yield()
        yield f"/dev/input/{new[0]}"
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def _latency(fd: int, percentile: int) -> float:
    """Microseconds."""
    sent: list[int] = []
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    late: list[int] = []
    for number in range(1, EVENTS + 1):
        sent.append(time.monotonic_ns())
        _feeder.move([number])
        if not poller.poll(DEADLINE * 1000):
            raise HostsimError("bench input", f"event {number} did not arrive")
        for sec, usec, kind, _, value in _EVENT.iter_unpack(os.read(fd, _EVENT.size * 64)):
            if kind == _EV_REL:
                late.append(sec * 1_000_000_000 + usec * 1000 - sent[value - 1])
        select.poll().poll(GAP)  # as between two of a person's
    if len(late) != EVENTS:
        raise HostsimError("bench input", f"{EVENTS - len(late)} of {EVENTS} events were lost")
    return statistics.quantiles(late, n=100)[percentile - 1] / 1000


def _rate(fd: int) -> float:
    """Events a second, sender's start to the last event's arrival; sent in batches, as much at a
    time as the readers' buffers hold."""
    begin = time.monotonic_ns()
    arrived = begin
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    for start in range(0, RATE_EVENTS, BATCH):
        _feeder.move(list(range(start + 1, start + BATCH + 1)))
        waiting = BATCH
        while waiting > 0:
            if not poller.poll(DEADLINE * 1000):
                raise HostsimError("bench input", f"{waiting} events were lost")
            for sec, usec, kind, _, _ in _EVENT.iter_unpack(os.read(fd, _EVENT.size * 256)):
                if kind == _EV_REL:
                    arrived = sec * 1_000_000_000 + usec * 1000
                    waiting -= 1
    return RATE_EVENTS / ((arrived - begin) / 1e9)
