# SPDX-License-Identifier: Apache-2.0
"""`hostsim apply` with operating systems: they join, leave and change while the host runs, and an
apply that fails half way changes nothing of that."""

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from help import cli
from help.applied import Files
from help.cli import HOSTSIM, hostsim
from help.waiting import becomes, until
from hostsim import Host, HostsimError, leftovers
from hostsim.booted import Booted
from hostsim.host import Host as Running
from hostsim.hostfile.file import parse
from hostsim.kmc.agents import AgentPort
from hostsim.kmc.direct import Direct
from hostsim.kmc.kmc import Kmc
from hostsim.kmc.mirror import Mirror
from hostsim.kmc.nics import Nics
from hostsim.kmc.osnodes import OsNodes
from hostsim.kmc.plugs import Plugs
from hostsim.programs import Programs
from hostsim.routing.dataplane import Dataplane
from hostsim.switch import Switch
from hostsim.teardown import Teardown
from hostsim.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

NAME = "hssj"
HEAD = f'[host]\nname = "{NAME}"\n[[endpoint]]\nname = "server"\naddress = "198.18.0.20/24"\n'
NIC = "hssj0"
AGENT = str(Path(HOSTSIM).with_name("hostsim-agent"))


def system(name: str, number: int, more: str = "", vm: str = "") -> str:
    return f'[[vm]]\nname = "{name}"\naddress = "198.18.0.{number}/24"\n{vm}[vm.os]\n{more}'


WORK, PLAY = system("work", 1), system("play", 2)
REST = system("rest", 3, 'background = "freeze"\nrestart = "on-failure"\n')


FILES = Files(HEAD)
up, apply = FILES.up, FILES.apply


def agent(host: Host, name: str, *words: str) -> str:
    return host[name].run(AGENT, *words).stdout


def state(host: Host, name: str) -> Any:
    """What its agent says that it is."""
    return json.loads(agent(host, name, "status", "--json"))["state"]


def frozen(name: str) -> bool:
    (group,) = Path("/sys/fs/cgroup").glob(f"**/hs-{NAME}/{name}/cgroup.freeze")
    return group.read_text().strip() == "1"


def test_one_joins_is_flipped_to_by_its_agent_and_leaves(tmp_path: Path) -> None:
    with up(WORK, tmp_path) as host:
        (before,) = [node.pid for node in host.status().nodes if node.name == "work"]
        done = apply(host, WORK + PLAY, tmp_path)
        assert (done.added, done.changes) == (("play",), ("OS play is added",))
        assert host.status().foreground == "work"
        assert host["play"].run("ping", "-c", "1", "-W", "5", "198.18.0.20").returncode == 0
        assert state(host, "play") == "background"
        agent(host, "play", "flip", "play")
        assert host.status().foreground == "play"
        agent(host, "work", "next")
        assert host.status().foreground == "work"
        gone = apply(host, WORK, tmp_path)
        assert (gone.removed, gone.changes) == (("play",), ("OS play is removed",))
        with pytest.raises(HostsimError, match="there is no such OS; there are work"):
            host.flip("play")
        assert [node.pid for node in host.status().nodes if node.name == "work"] == [before]
        apply(host, WORK + PLAY, tmp_path)
        assert host.flip("play").previous == "work"


def test_the_first_ones_of_a_host(tmp_path: Path) -> None:
    """The host gets a KMC with them; one is foreground at once, as the file says."""
    with up("", tmp_path) as host:
        apply(host, '[kmc]\nforeground = "play"\n' + WORK + PLAY, tmp_path)
        assert host.status().foreground == "play"
        assert host.flip("work").previous == "play"
        host["play"].restart()
        until(lambda: state(host, "play") == "background")
        assert host.flip("play").previous == "work"


def test_the_order_of_the_file_holds(tmp_path: Path) -> None:
    with up(WORK + PLAY, tmp_path) as host:
        apply(host, WORK + system("rest", 3) + PLAY, tmp_path)
        agent(host, "work", "next")
        assert host.status().foreground == "rest"
        agent(host, "rest", "next")
        assert host.status().foreground == "play"
        agent(host, "play", "next")
        assert host.status().foreground == "work"


def test_who_may_flip_and_who_follows(tmp_path: Path) -> None:
    """[kmc] names the OS that joins."""
    kmc = '[kmc]\nmay_flip = ["rest"]\nfallback = "rest"\n'
    with up('[kmc]\nmay_flip = ["work"]\n' + WORK + PLAY, tmp_path) as host:
        done = apply(host, kmc + WORK + PLAY + system("rest", 3), tmp_path)
        assert "[kmc] changes" in done.changes
        refused = host["work"].run(AGENT, "flip", "play", check=False)
        assert "may not ask for it" in refused.stdout + refused.stderr
        agent(host, "rest", "flip", "work" if host.status().foreground != "work" else "play")
        host.flip("work")
        host["work"].run("kill", "-TERM", "1", check=False)
        becomes(lambda: host.status().foreground, "rest")


def test_background_and_restart_of_one_that_joins(tmp_path: Path) -> None:
    """It is frozen once it is in the background, and made anew when it dies."""
    with up(WORK, tmp_path) as host:
        apply(host, WORK + REST, tmp_path)
        until(lambda: frozen("rest"))
        host.flip("rest")
        assert not frozen("rest")
        os.kill(next(node.pid for node in host.status().nodes if node.name == "rest"), 9)
        becomes(lambda: host.status().foreground, "work")
        until(lambda: {n.name: n.state for n in host.status().nodes}["rest"] == "running", 60)
        until(lambda: frozen("rest"), 60)
        assert host.flip("rest").previous == "work"


def test_background_changes_while_it_runs(tmp_path: Path) -> None:
    thawed = REST.replace("freeze", "run")
    with up(WORK + REST, tmp_path) as host:
        until(lambda: frozen("rest"))
        assert apply(host, WORK + thawed, tmp_path).changes == ("[vm.os] of rest changes",)
        assert not frozen("rest")
        host.flip("rest")
        host.flip("work")
        assert not frozen("rest")
        apply(host, WORK + REST, tmp_path)
        until(lambda: frozen("rest"))


@pytest.mark.parametrize(
    ("after", "why", "hint"),
    [
        (PLAY, "work: it is the foreground OS", "hostsim flip play"),
        ("", "work: it is the foreground OS", "hostsim flip play"),
        (
            WORK + 'background = "freeze"\n' + PLAY,
            "work: it is the foreground OS",
            "hostsim flip play",
        ),
        (
            WORK + PLAY + "seat = false\n",
            r"play is an OS that runs, and its \[vm.os\] seat cannot change",
            "apply a file without play",
        ),
        (
            WORK + PLAY.replace("[vm.os]", 'memory = "1G"\nroot = "/x"\n[vm.os]'),
            "play is an OS that runs, and its memory, root, .* cannot change",
            "apply a file without play",
        ),
        (
            WORK + PLAY.replace("[vm.os]\n", ""),
            r"play is an OS that runs, and its \[vm.os\] cannot change",
            "apply a file without play",
        ),
        (
            WORK + PLAY + '[[device]]\nmatch = { name = "Test*" }\n',
            r"\[\[device\]\]",
            "hostsim down",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_said(
    after: str, why: str, hint: str, tmp_path: Path
) -> None:
    """By --dry-run too; nothing has changed."""
    with up(WORK + PLAY, tmp_path) as host:
        before = [(node.name, node.pid) for node in host.status().nodes]
        for dry in (True, False):
            with pytest.raises(HostsimError, match=why) as error:
                apply(host, after, tmp_path, dry_run=dry)
            assert hint in error.value.hint
        assert [(node.name, node.pid) for node in host.status().nodes] == before
        assert host.flip("play").previous == "work"


def test_dry_run_says_it_and_does_nothing(tmp_path: Path) -> None:
    with up(WORK + PLAY, tmp_path) as host:
        done = apply(host, WORK + REST, tmp_path, dry_run=True)
        assert done.changes == ("OS rest is added", "OS play is removed")
        assert host.flip("play").previous == "work"


def mtu(name: str) -> int:
    """That of the interface that OSes share, in an OS that has it."""
    words = ("ip", "-n", f"hs-{NAME}-{name}", "-j", "link", "show", "dev", NIC)
    (link,) = json.loads(cli.run(*words).stdout)
    return int(link["mtu"])


def test_one_that_joins_has_the_interface_in_its_turn(tmp_path: Path) -> None:
    """As the machine had it; what another of its name has made of it is forgotten."""
    device = f'[[device]]\nmatch = {{ interface = "{NIC}" }}\n'
    rest = system("rest", 3)
    with cli.plugged_nic(NIC, f"{NIC}b", f"{NIC}-net", "198.18.95.9/24", keep=True):
        with up(WORK + device, tmp_path) as host:
            for _ in range(2):
                apply(host, WORK + rest + device, tmp_path)
                host.flip("rest")
                assert mtu("rest") == 1400
                host["rest"].run("ip", "link", "set", NIC, "mtu", "1300", check=True)
                host.flip("work")
                host.flip("rest")
                assert mtu("rest") == 1300
                host.flip("work")
                assert mtu("work") == 1400
                apply(host, WORK + device, tmp_path)
            apply(host, WORK + rest + device, tmp_path)
            host.flip("rest")
        assert "1400" in Path(f"/sys/class/net/{NIC}/mtu").read_text()


def test_the_next_after_the_last_has_what_the_file_says_then(tmp_path: Path) -> None:
    """An OS that died leaves, and the host has none; those that come have other equipment."""
    device = f'[[device]]\nmatch = {{ interface = "{NIC}" }}\n'
    with cli.plugged_nic(NIC, f"{NIC}b", f"{NIC}-net", "198.18.95.9/24", keep=True):
        with up(WORK, tmp_path) as host:
            for equipped in (True, False, True):
                (last,) = [node for node in host.status().nodes if node.os]
                os.kill(last.pid, 9)
                becomes(lambda: host.status().foreground, None)
                apply(host, "", tmp_path)
                with pytest.raises(HostsimError, match="has no operating systems"):
                    host.flip("work")
                assert Path(f"/sys/class/net/{NIC}").exists()
                kmc = '[kmc]\nforeground = "play"\nfallback = "work"\n'
                text = kmc + WORK + PLAY + (device if equipped else "")
                apply(host, text, tmp_path)
                assert host.status().foreground == "play"
                assert Path(f"/sys/class/net/{NIC}").exists() is not equipped
                if equipped:
                    assert mtu("play") == 1400
                assert host.flip("work").previous == "play"
                apply(host, WORK + (device if equipped else ""), tmp_path)
        assert "1400" in Path(f"/sys/class/net/{NIC}/mtu").read_text()


def test_nothing_is_left_of_a_host_that_got_oses(tmp_path: Path) -> None:
    """Neither by down, nor by kill -9 and clean; of one that has left, at once."""
    before = leftovers.snapshot()
    file = tmp_path / f"{NAME}.toml"
    for killed in (False, True):
        with cli.host(HEAD + WORK, tmp_path):
            file.write_text(HEAD + WORK + PLAY + REST)
            hostsim("apply", str(file))
            hostsim("flip", "play")
            file.write_text(HEAD + PLAY + REST)
            hostsim("apply", str(file))
            assert not Path(f"/run/netns/hs-{NAME}-work").exists()
            assert not list(Path("/sys/fs/cgroup").glob(f"**/hs-{NAME}/work"))
            if killed:
                cli.kill_daemon(NAME)
                hostsim("clean")
                assert leftovers.settle(before) == []
                hostsim("up", str(file))
        assert leftovers.settle(before) == []


KIOSK = system("kiosk", 5, 'background = "freeze"\n', 'run = "sleep 1000"\n')
FIRST = '[kmc]\nmay_flip = ["work"]\n' + WORK + PLAY + KIOSK
THEN = (
    '[kmc]\nmay_flip = ["rest"]\nrelease_timeout = "1s"\nfallback = "rest"\n'
    + system("more", 4, vm='run = "sleep 1000"\n')
    + WORK
    + KIOSK.replace("freeze", "run")
    + REST
    + '[[vm]]\nname = "fw"\n[[route]]\nmatch = { proto = "udp" }\nthrough = ["fw"]\n'
)
STEPS: list[tuple[type, str]] = [
    (Vm, "start"),
    (Switch, "connect"),
    (Switch, "reroute"),
    (Dataplane, "add"),
    (Booted, "up"),
    (Programs, "start"),
    (Kmc, "prepare"),
    (Kmc, "join"),
    (OsNodes, "__init__"),
    (Plugs, "join"),
    (Mirror, "join"),
    (Direct, "join"),
    (Nics, "join"),
    (AgentPort, "open"),
    (Dataplane, "compile"),
    (Dataplane, "impairing"),
]
"""What an apply does to the host before the policy changes."""


class Broken(Exception):
    """No error that anything raises on purpose."""


def running(host: Running) -> Any:
    """All that is to be as before."""
    kmc = host.kmc
    numbers = kmc._plugs._numbers if kmc._plugs is not None else {}
    return {
        "spec": host.spec,
        "vms": {name: (vm.pid, vm.alive, vm.spec, vm.port) for name, vm in host.vms.items()},
        "kmc": kmc.status(),
        "barred": kmc._flips.machine.barred,
        "tables": [list(one) for one in (kmc._oses, kmc._ports, kmc._nodes, kmc._asks, numbers)],
        "frozen": {name: frozen(name) for name in ("work", "play", "kiosk")},
        "routes": host.dataplane.report.routes(),
        "names": sorted(one for one in os.listdir("/run/netns") if one.startswith(f"hs-{NAME}-")),
        "groups": sorted(str(one) for one in Path("/sys/fs/cgroup").glob(f"**/hs-{NAME}/*/")),
        "ports": sorted(one["name"] for one in host.joined.switch.ports()),
        "heard": sorted(host._watched),
        "readers": len(asyncio.get_running_loop()._selector.get_map()),  # type: ignore[attr-defined]
        "restarts": sorted(host._restarts._backoffs),
        "booted": sorted(host._booted._gone),
    }


def broken_push(number: int, pushed: list[str]) -> Callable[..., None]:
    """Teardown.push; that of an apply raises once it has pushed so many."""

    def push(
        closing: Teardown, name: str, step: Callable[[], Any], *, blocks: bool = False
    ) -> None:
        PUSH(closing, name, step, blocks=blocks)
        if closing._what == "apply":
            pushed.append(name)
            if len(pushed) == number:
                raise Broken(name)

    return push


PUSH = Teardown.push


def broken_step(owner: type, name: str, late: bool) -> Callable[..., Any]:
    """The method, which raises at its first call; late: after it has done its work."""
    whole, calls = getattr(owner, name), []

    def step(*args: Any, **words: Any) -> Any:
        calls.append(name)
        if len(calls) > 1:
            return whole(*args, **words)
        if not late:
            raise Broken(name)
        done = whole(*args, **words)
        if not inspect.isawaitable(done):
            raise Broken(name)

        async def wait() -> None:
            await done
            raise Broken(name)

        return wait()

    return step


def test_an_apply_that_fails_at_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OSes come, one leaves, one changes, and a route; it fails after each step that it pushes, and
    before and after the work of each part."""
    path = tmp_path / "host.toml"
    first, then = (parse(HEAD + text, path) for text in (FIRST, THEN))

    async def run() -> None:
        host = Running(first, tmp_path)
        await host.start()
        try:
            await fails(host)
            done = await host.apply(then)
            assert (done["added"], done["removed"]) == (["more", "rest", "fw"], ["play"])
            assert list(host.kmc._oses) == ["more", "work", "kiosk", "rest"]
            assert (await host.kmc.flip("rest", "test"))["previous"] == "work"
        finally:
            await host.stop()

    async def fails(host: Running) -> None:
        before = running(host)
        pushed: list[str] = []
        number = 0
        while len(pushed) == number:
            pushed, number = [], number + 1
            with monkeypatch.context() as patch:
                patch.setattr(Teardown, "push", broken_push(number, pushed))
                patch.setattr(Dataplane, "change", broken_step(Dataplane, "change", late=False))
                with pytest.raises(Broken):
                    await host.apply(then)
            assert running(host) == before, pushed
        assert {"OSes that stay", "OSes", "boots", "VMs", "ports", "links"} <= set(pushed)
        for owner, name in STEPS:
            for late in (False, True) if name != "__init__" else (False,):
                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, broken_step(owner, name, late))
                    with pytest.raises(Broken):
                        await host.apply(then)
                assert running(host) == before, (owner, name, late)
        assert (await host.kmc.flip("play", "test"))["previous"] == "work"
        assert (await host.kmc.flip("work", "test"))["previous"] == "play"

    asyncio.run(run())


def test_the_first_oses_of_a_host_go_with_an_apply_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does the KMC."""
    path = tmp_path / "host.toml"
    empty, then = (parse(HEAD + text, path) for text in ("", WORK + PLAY))

    async def run() -> None:
        host = Running(empty, tmp_path)
        await host.start()
        try:
            readers = len(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]
            with monkeypatch.context() as patch:
                patch.setattr(Dataplane, "compile", broken_step(Dataplane, "compile", late=False))
                with pytest.raises(Broken):
                    await host.apply(then)
            assert list(host.vms) == ["server"]
            with pytest.raises(HostsimError, match="has no operating systems"):
                host.kmc.status()
            now = len(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]
            assert now == readers
            await host.apply(then)
            assert host.kmc.status()["foreground"] == "work"
        finally:
            await host.stop()

    asyncio.run(run())
