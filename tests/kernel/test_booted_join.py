# SPDX-License-Identifier: Apache-2.0
"""`hostsim apply` with operating systems that boot systemd of a root of their own: they join and
leave a host that runs, and one that does not come up leaves it as it was."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from help import cli, roots
from help.waiting import becomes, until
from hostsim import leftovers

pytestmark = [pytest.mark.root, pytest.mark.timeout(280)]

NAME = "hsbj"
HEAD = f'[host]\nname = "{NAME}"\n[[vm]]\nname = "work"\naddress = "198.18.96.3/24"\n[vm.os]\n'
DEB = """
[[vm]]
name = "deb"
address = "198.18.96.1/24"
root = "{root}"
boot = true
keep = "keep"
share = ["{shared}"]
{more}
"""
AS_OS = '[vm.os]\nbackground = "freeze"\nrestart = "on-failure"\n'


def apply(folder: Path, text: str, check: bool = True) -> cli.Done:
    (folder / "next.toml").write_text(HEAD + text)
    return cli.hostsim("apply", str(folder / "next.toml"), check=check)


def said(*words: str) -> str:
    return cli.hostsim("exec", "deb", "--", *words, check=False).stdout.strip()


def vm(name: str) -> Any:
    return next((one for one in cli.ask("status")["vms"] if one["name"] == name), None)


def terminals() -> int:
    """How many the daemon has open: of each OS that boots, its console."""
    (daemon,) = [one["pid"] for one in cli.ask("ls") if one["host"] == NAME]
    found = 0
    for fd in os.listdir(f"/proc/{daemon}/fd"):
        with contextlib.suppress(OSError):  # it was closed just now
            found += os.readlink(f"/proc/{daemon}/fd/{fd}").startswith("/dev/pt")
    return found


@pytest.mark.parametrize("more", [AS_OS, ""], ids=["os", "no-os"])
def test_one_that_boots_joins_and_leaves(more: str, root: Path, tmp_path: Path) -> None:
    """It is up when the apply is done; it shuts down when it leaves, with what it keeps."""
    shared = tmp_path / "shared"
    shared.mkdir()
    text = DEB.format(root=root, shared=shared, more=more)
    before = leftovers.snapshot()
    with cli.host(HEAD, tmp_path) as state:
        for count in (1, 2):
            assert "OS deb is added" in apply(tmp_path, text).stdout
            assert vm("deb")["state"] == "running"
            if more:
                cli.hostsim("flip", "deb")
            assert said("cat", "/proc/1/comm") == "systemd"
            assert said("sh", "-c", f"ls {shared}; cat /root/kept") == ("kept" if count > 1 else "")
            said("sh", "-c", "echo kept > /root/kept")
            if more:
                assert "foreground OS" in apply(tmp_path, "", check=False).stderr
                cli.hostsim("flip", "work")
            assert "OS deb is removed" in apply(tmp_path, "").stdout
            assert vm("deb") is None
            console = (state / "deb.log").read_text(errors="replace")
            assert console.count("Shutting down") + console.count("halt") > 0
            assert terminals() == 0
    assert leftovers.settle(before) == []


def test_it_is_restarted_and_comes_again_by_itself(root: Path, tmp_path: Path) -> None:
    text = DEB.format(root=root, shared="/usr/share", more=AS_OS)
    with cli.host(HEAD, tmp_path):
        apply(tmp_path, text)
        before = vm("deb")["pid"]
        cli.hostsim("restart", "deb")
        until(lambda: (vm("deb")["state"], vm("deb")["pid"] == before) == ("running", False), 120)
        until(lambda: cli.hostsim("flip", "deb", check=False).returncode == 0, 60)
        before = vm("deb")["pid"]
        said("systemctl", "reboot")
        becomes(lambda: cli.ask("status")["foreground"], "work", 60)
        until(lambda: (vm("deb")["state"], vm("deb")["pid"] == before) == ("running", False), 120)
        cli.kill_daemon(NAME)
        cli.hostsim("clean")
        cli.hostsim("up", str(tmp_path / f"{NAME}.toml"))


def test_one_that_does_not_come_up_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    """Its init, which is waited for since its program is called systemd, ends."""
    bad = roots.busybox(tmp_path)
    (bad / "bin/busybox").rename(bad / "bin/systemd")
    (bad / "bin/busybox").symlink_to("systemd")
    (bad / "etc/inittab").write_text("::sysinit:/bin/kill -TERM 1\n")
    text = DEB.format(root=bad, shared="/usr/share", more=AS_OS)
    with cli.host(HEAD, tmp_path):
        pid = vm("work")["pid"]
        failed = apply(tmp_path, text, check=False)
        assert failed.returncode == 1
        assert "its init has ended before it was ready" in failed.stderr
        assert [one["name"] for one in cli.ask("status")["vms"]] == ["work"]
        assert (vm("work")["pid"], cli.ask("status")["foreground"]) == (pid, "work")
        assert not Path(f"/run/netns/hs-{NAME}-deb").exists()
        assert terminals() == 0


def test_down_does_not_wait_for_one_that_boots(root: Path, tmp_path: Path) -> None:
    """An apply that waits for it is undone, and says why."""
    text = DEB.format(root=root, shared="/usr/share", more=AS_OS)
    before = leftovers.snapshot()
    said: list[cli.Done] = []
    with cli.host(HEAD, tmp_path):
        job = threading.Thread(target=lambda: said.append(apply(tmp_path, text, check=False)))
        job.start()
        until(lambda: Path(f"/run/netns/hs-{NAME}-deb").exists(), 60)
        cli.hostsim("down")
        job.join()
        assert said[0].returncode == 1
        assert "goes down" in said[0].stderr or "ended" in said[0].stderr, said[0].stderr
        assert leftovers.settle(before) == []
        cli.hostsim("up", str(tmp_path / f"{NAME}.toml"))
