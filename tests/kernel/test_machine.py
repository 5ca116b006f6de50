# SPDX-License-Identifier: Apache-2.0
"""What a host takes of its machine: addresses that no other machine has, no way to the world that
is not given, and room for logs that is bounded."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, host, hostsim, run
from help.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

HOST = '[host]\nname = "hsmach"\n'


def address_of(vm: str) -> str:
    read = ("exec", "--host", "hsmach", vm, "--", "cat", "/sys/class/net/eth0/address")
    return hostsim(*read).stdout.strip()


def test_macs_are_the_machines_own_or_as_the_file_says(tmp_path: Path) -> None:
    text = HOST
    for nth, name in enumerate("abc", start=1):
        text += f'[[vm]]\nname = "{name}"\naddress = "198.18.70.{nth}/24"\n'
        text += 'mac = "02:00:5e:10:00:0B"\n' if name == "b" else ""
    with host(text, tmp_path):
        macs = [address_of(name) for name in "abc"]
        assert macs[1] == "02:00:5e:10:00:0b"
        assert macs[0][:14] == macs[2][:14] != macs[1][:14]
        hostsim("exec", "--host", "hsmach", "a", "--", "ping", "-c1", "-W2", "198.18.70.2")
        bridge = ("bridge", "-n", "hs-hsmach-switch", "-j", "fdb", "show", "brport", "b")
        known = json.loads(run(*bridge).stdout)
        assert ["sticky"] in [row["flags"] for row in known if row["mac"] == macs[1]]


@pytest.fixture
def machine() -> Iterator[str]:
    """A network namespace in which hostsim is typed; its NIC has the default route."""
    name = "hsmachine"
    run("ip", "netns", "add", name)
    try:
        for words in (
            "link add v0 type veth peer v1",
            "addr add 198.18.7.1/24 dev v0",
            "link set v0 up",
            "link set v1 up",
            "route add default via 198.18.7.2 dev v0 metric 7",
        ):
            run("ip", "-n", name, *words.split())
        yield name
    finally:
        run("ip", "netns", "del", name)


TAKES = {
    "uplink": '[switch]\nuplinks = ["v0"]\n%s[[endpoint]]\nname = "a"\n',
    "equipment": '[[vm]]\nname = "a"\n[vm.os]\n[[device]]\nmatch = { interface = "v0" }\n%s',
}


@pytest.mark.parametrize("how", TAKES)
def test_the_default_route_is_taken_by_whom_the_file_lets(
    machine: str, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "hsmach.toml"
    inside = ("nsenter", f"--net=/run/netns/{machine}", HOSTSIM)
    before = run("ip", "-n", machine, "route").stdout
    file.write_text(HOST + TAKES[how] % "")
    said = run(*inside, "up", str(file), check=False)
    assert (said.returncode, said.stdout) == (1, "")
    table = {"uplink": "[switch]", "equipment": "its [[device]]"}[how]
    assert said.stderr == (
        "hostsim: interface v0: the machine's default route goes by it, which the machine would "
        f"lose; take_default_route = true in {table} takes it all the same\n"
    )
    assert run("ip", "-n", machine, "route").stdout == before
    file.write_text(HOST + TAKES[how] % "take_default_route = true\n")
    run(*inside, "up", str(file))
    assert run("ip", "-n", machine, "route").stdout == ""
    run(*inside, "down", "hsmach")
    until(lambda: run("ip", "-n", machine, "route").stdout == before)


LOUD = """
[[endpoint]]
name = "loud"
log_size = "256K"
run = "sh -c 'yes 0123456789 | head -c 20000000; echo the end; exec sleep 99'"
"""


def ended(log: Path) -> bool:
    """Whether the program has written all; in between a new file takes the full one's place."""
    with contextlib.suppress(FileNotFoundError):
        return log.read_bytes().endswith(b"the end\n")
    return False


def test_what_a_program_writes_is_bounded(tmp_path: Path) -> None:
    with host(HOST + LOUD, tmp_path) as state:
        until(lambda: ended(state / "loud.log"), 60)
        assert sum(path.stat().st_size for path in state.glob("loud.log*")) <= 256 << 10
        (loud,) = ask("status", "hsmach")["endpoints"]
        assert loud["state"] == "running"
