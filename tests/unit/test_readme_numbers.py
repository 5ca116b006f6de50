# SPDX-License-Identifier: Apache-2.0
"""Numbers in the READMEs that are constants of the code: they are the same."""

import re
from pathlib import Path

import pytest

from cext.sight.tap import LEASE
from cext.switch import records
from hostsim import service
from hostsim.capture import pcapng
from hostsim.cli import views
from hostsim.kmc import direct, door, made, seats
from hostsim.routing import inspector, memory
from hostsim.views import screen, top

ROOT = Path(__file__).parents[2]


def c(file: str, name: str) -> int:
    """A constant of a C file: a number, or one that is shifted to the left."""
    text = (ROOT / "cext" / file).read_text()
    found = re.search(rf"\b{name}(?: =)? \(?(?:UINT64_C\()?(\d+)u?(?: << (\d+))?", text)
    assert found, f"{file} has no {name}"
    return int(found[1]) << int(found[2] or 0)


def life(name: str) -> int:
    return c("switch/layout.h", f"HS_LIFE_{name}")


WATCHDOG = re.findall(r"WatchdogSec=(\d+)", service.unit("hostsim"))[0]
MAY_HAVE = memory.TAKEN * memory.SHARE
SAID = [
    ("hostsim/README.md", f"machine with {MAY_HAVE / (1 << 30):g} GiB of memory or more"),
    ("hostsim/README.md", f"holds {memory.TAKEN >> 20} MiB of the kernel's"),
    ("hostsim/bench/README.md", f"any machine with {MAY_HAVE / (1 << 30):g} GiB or more"),
    (
        "hostsim/README.md",
        f"through in {direct.BUDGET * 1000:.0f} ms of the daemon's time is killed",
    ),
    (
        "hostsim/README.md",
        f"makes more than {made.MOST}, or goes on making more than {made.RATE:g} a",
    ),
    ("hostsim/README.md", f"behind {c('input/found.c', 'MESSAGES')} messages, or more than "),
    ("hostsim/README.md", f"or more than {c('input/revoke.c', 'LOOKS')} in all)"),
    (
        "hostsim/README.md",
        f"with {c('port/tally.h', 'HS_TALLY_IDLE') // 10**9} s of silence before",
    ),
    ("hostsim/kmc/README.md", f"may send {seats.RATE:g} messages a second"),
    ("hostsim/kmc/README.md", f"an OS open {door.RATE:g} connections a second"),
    ("hostsim/cli/README.md", f"if its loop stands still for {WATCHDOG} s"),
    ("hostsim/capture/README.md", f"memory of {c('sight/tap.h', 'HS_TAP_BYTES') >> 20} MiB each"),
    ("hostsim/capture/README.md", {60 * 10**9: "killed they go on for a minute"}.get(LEASE, "?")),
    ("hostsim/capture/README.md", f"enterprise number {pcapng.ENTERPRISE}"),
    ("hostsim/capture/README.md", f"packet id (option {pcapng.PACKET_ID})"),
    ("hostsim/views/README.md", f"A terminal needs {screen.FEW} columns"),
    ("hostsim/views/README.md", f"http://{views.LISTEN}/metrics"),
    ("hostsim/views/README.md", f"It looks at {top.FLOWS} flows at most"),
    ("hostsim/routing/README.md", f"room for {records.CONNS_MAX:,} connections and "),
    ("hostsim/routing/README.md", f"connections and {records.FLOWS_MAX:,} flows"),
    ("hostsim/routing/README.md", f"may have {records.SHARE} times as many of either as are free"),
    ("hostsim/routing/README.md", f"At most {records.ASK_MAX} packets of a flow are looked at"),
    ("hostsim/routing/README.md", f"({inspector.PENDING} unfinished ones are kept)"),
    ("hostsim/routing/README.md", f"the latest {c('switch/layout.h', 'HS_DATAGRAMS_EACH'):,} data"),
    ("hostsim/routing/README.md", f"behind up to {c('flow/tuple.h', 'HS_TAGS')} of them is judged"),
    (
        "hostsim/routing/README.md",
        f"TCP after {life('OPEN') // 86400} days, {life('OPENING')} s while",
    ),
    ("hostsim/routing/README.md", f"others after {life('ANSWERED')} s, without an answer after"),
]


@pytest.mark.parametrize(("file", "text"), SAID, ids=[text for _, text in SAID])
def test_a_readme_says_what_the_code_has(file: str, text: str) -> None:
    assert text in " ".join((ROOT / file).read_text().split())
