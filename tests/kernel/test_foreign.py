# SPDX-License-Identifier: Apache-2.0
"""A link that somebody puts into the switch's namespace does not stay there: it would be a port
that no route and no filter sees."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import ask, host, hostsim, run
from help.net import endpoint
from help.waiting import until
from netns.interfaces import RTMGRP_LINK

pytestmark = pytest.mark.root

NAME = "hsfor"
FILE = f'[host]\nname = "{NAME}"\n[[vm]]\nname = "fw"\n[[vm]]\nname = "ids"\n'
FILE += endpoint("client", "198.18.96.10/24") + endpoint("server", "198.18.96.20/24")
FILE += '[[route]]\nmatch = { dst = "198.18.96.20/32" }\nthrough = ["fw", "ids"]\n'
SWITCH = f"hs-{NAME}-switch"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with host(FILE, tmp_path_factory.mktemp("foreign")) as made:
        yield made


def links() -> dict[str, int]:
    shown = run("ip", "-n", SWITCH, "-json", "link").stdout
    return {link["ifname"]: link["ifindex"] for link in json.loads(shown)}


@pytest.mark.parametrize(
    "words",
    [
        "evil type bridge",
        "evil master br0 type veth peer name more",
        "hsd1-2 type bridge",  # a direct link's name, and not its number
        "evil index 16781314 type bridge",  # a direct link's number, and not its name
    ],
)
def test_a_foreign_link_goes_and_is_told(state: Path, words: str) -> None:
    before = links()
    run("ip", "-n", SWITCH, "link", "add", *words.split())
    until(lambda: links() == before)
    name = words.split()[0]
    assert f"switch: link '{name}' is not of this host: removed" in (state / "log").read_text()


def lost() -> int:
    """How many news the sockets that listen for links in the switch's namespace had no room for."""
    head, *rows = run("ip", "netns", "exec", SWITCH, "cat", "/proc/net/netlink").stdout.splitlines()
    found = [dict(zip(head.split(), row.split(), strict=True)) for row in rows]
    return sum(int(one["Drops"]) for one in found if int(one["Groups"], 16) & RTMGRP_LINK)


def test_news_that_were_lost(state: Path) -> None:
    """The daemon is stopped while there are more news than its socket has room for: what came last
    is found by a list of all links."""
    before = links()
    flapping = "link set flap up\nlink set flap down\n" * 400
    (pid,) = {one["pid"] for one in ask("ls") if one["host"] == NAME}
    os.kill(pid, signal.SIGSTOP)
    try:
        script = f"link add flap type bridge\n{flapping}link add last type bridge\n"
        subprocess.run(["ip", "-n", SWITCH, "-batch", "-"], input=script, text=True, check=True)
        assert lost() > 0
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: links() == before)


SAY = "for i in $(seq 50); do echo x > /dev/udp/198.18.96.20/9; done"


def test_what_is_the_hosts_own_stays(state: Path) -> None:
    """Ports, and the direct links that a flow brings."""
    own = {"lo", "br0", "fw", "ids", "client", "server", "hsd1-2", "hsd2-1"}

    def made() -> bool:
        hostsim("--host", NAME, "exec", "client", "--", "bash", "-c", SAY)
        return own <= links().keys()

    until(made)
    run("ip", "-n", SWITCH, "link", "add", "evil", "type", "bridge")
    until(lambda: "evil" not in links())
    assert own <= links().keys()
    assert {one["state"] for one in ask("--host", NAME, "status")["vms"]} == {"running"}
