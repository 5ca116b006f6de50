# SPDX-License-Identifier: Apache-2.0
"""Operating systems with an init of their own: systemd as process 1, how it comes up and ends."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from help import cli, roots
from help.waiting import until
from hostsim.errors import HostsimError
from hostsim.model import RootSpec
from hostsim.vm import Vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

MakeVm = Callable[..., Vm]
FILE = """
[host]
name = "hsboot"
[[vm]]
name = "deb"
address = "198.18.96.1/24"
root = "{root}"
boot = true
keep = "keep"
[vm.os]
background = "freeze"
[[vm]]
name = "again"
root = "{root}"
boot = true
memory = "256M"
share = ["{shared}"]
[vm.os]
restart = "on-failure"
[[endpoint]]
name = "out"
address = "198.18.96.2/24"
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A directory below /tmp."""
    with tempfile.TemporaryDirectory(prefix="hsboot-", dir="/tmp") as name:
        (Path(name) / "file").write_text("outside")
        yield Path(name)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, root: Path, shared: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boot")
    with cli.host(FILE.format(root=root, shared=shared), folder) as state:
        yield state


def said(vm: str, *words: str, check: bool = True) -> str:
    return cli.hostsim("exec", vm, "--", *words, check=check).stdout.strip()


def vm(name: str) -> dict[str, object]:
    return next(one for one in cli.ask("status")["vms"] if one["name"] == name)


def again(name: str, pid: object) -> None:
    """Wait until an OS is up with another process 1 than this, and has the foreground."""

    def is_up() -> bool:
        now = vm(name)
        return now["state"] == "running" and now["pid"] != pid

    until(is_up, 120, f"{name} is up again")
    until(lambda: cli.hostsim("flip", name, check=False).returncode == 0, 60, f"a flip to {name}")


def test_it_is_running(host: Path) -> None:
    assert said("deb", "systemctl", "is-system-running") == "running"
    assert said("deb", "cat", "/proc/1/comm", "/etc/hostname").split() == ["systemd", "deb"]
    assert said("deb", "systemd-detect-virt") == "container-other"
    assert said("deb", "systemd-run", "--wait", "-q", "-p", "MemoryMax=50M", "true") == ""
    assert cli.hostsim("exec", "out", "--", "ping", "-c", "1", "-W", "20", "198.18.96.1")
    log = host / "deb.log"  # its getty discards what nobody has read when it begins
    until(lambda: "running in system mode" in log.read_text(), 20, "the console is in the log")


def test_a_share_below_tmp_is_not_covered(host: Path, shared: Path) -> None:
    """Its /tmp is in memory all the same; systemd clears it as it starts, and leaves the share."""
    assert said("again", "stat", "-f", "-c", "%T", "/tmp") == "tmpfs"
    assert said("again", "cat", f"{shared}/file") == "outside"
    said("again", "touch", f"{shared}/made")
    assert {one.name for one in shared.iterdir()} == {"file", "made"}


def test_its_root_lifts_no_limit(host: Path) -> None:
    """The group that it may divide lies below the one that the limits are written into."""
    now = vm("again")
    group = Path(str(now["cgroup"]))
    pid = int(str(now["pid"]))
    assert (
        Path(f"/proc/{pid}/cgroup").read_text().rstrip().endswith("/hs-hsboot/again/os/init.scope")
    )
    assert {path.name for path in group.iterdir() if path.is_dir()} == {"exec", "os"}
    assert said("again", "cat", "/proc/1/cgroup").count("0::/init.scope") <= 1
    script = "cd /sys/fs/cgroup; for f in cgroup.freeze cgroup.kill memory.max pids.max; do"
    script += " [ ! -e $f ] || ! echo 1 > $f || exit 7; done; echo $$ > ../cgroup.procs"
    done = cli.hostsim("exec", "again", "--", "sh", "-c", script, check=False)
    assert done.returncode not in (0, 7), done
    assert (group / "cgroup.freeze").read_text().strip() == "0"
    inside = said("again", "sh", "-c", "cat /sys/fs/cgroup/cgroup.procs; ls /sys/fs/cgroup")
    assert "init.scope" in inside
    assert "hs-" not in inside


def test_a_reboot_comes_back_and_poweroff_stays(host: Path) -> None:
    """deb has restart = "no", and is frozen in the background, but not before it is up. What it
    changed is kept, and it leaves no core dump of the signal that its process 1 ends by."""
    said("deb", "sh", "-c", "echo kept > /root/file")
    pid = vm("deb")["pid"]
    said("deb", "systemctl", "reboot")
    again("deb", pid)
    assert said("deb", "cat", "/root/file") == "kept"
    assert said("deb", "systemctl", "is-system-running", "--wait") == "running"
    assert said("deb", "find", "/", "-xdev", "-maxdepth", "1", "-name", "core*") == ""
    said("deb", "systemctl", "poweroff")
    until(lambda: vm("deb")["state"] == "off", 120, "deb is off")
    cli.hostsim("restart", "deb")
    again("deb", None)
    assert said("deb", "cat", "/root/file") == "kept"


def test_killed_it_comes_back_if_it_should(host: Path) -> None:
    pid = int(str(vm("again")["pid"]))
    os.kill(pid, signal.SIGKILL)
    again("again", pid)
    assert said("again", "systemctl", "is-system-running", "--wait") == "running"
    pid = int(str(vm("deb")["pid"]))
    os.kill(pid, signal.SIGKILL)
    until(lambda: vm("deb")["state"] == "dead", 60, "deb is dead")
    assert cli.ask("status")["foreground"] == "again"


def test_its_end_is_seen_while_a_dead_program_in_it_waits_for_its_parent(host: Path) -> None:
    """Who called `hostsim exec` stands still, and does not reap his program: process 1 cannot end.
    The equipment goes to another OS all the same; once he goes on, the dead one is started again.
    """
    if vm("deb")["state"] != "running":
        cli.hostsim("restart", "deb")
        again("deb", None)
    cli.hostsim("flip", "again")
    pid = int(str(vm("again")["pid"]))
    words = [cli.HOSTSIM, "exec", "again", "--", "sh", "-c", "echo in; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == b"in\n"
            caller.send_signal(signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)
            until(lambda: cli.ask("status")["foreground"] == "deb", 60, "deb has the foreground")
            assert Path(f"/proc/{pid}").exists()
        finally:
            caller.send_signal(signal.SIGCONT)
            caller.send_signal(signal.SIGTERM)
            caller.wait(60)
    again("again", pid)


def test_down_shuts_it_down(root: Path, tmp_path: Path) -> None:
    """systemd stops its services, and a killed daemon's OS goes with `clean`."""
    keep = tmp_path / "keep"
    text = f'[host]\nname = "hsend"\n[[vm]]\nname = "a"\nroot = "{root}"\nboot = true\n'
    file = tmp_path / "hsend.toml"
    file.write_text(text + f'keep = "{keep}"\n')
    stop = "ExecStart=/bin/true\nExecStop=/bin/sh -c 'echo ended > /root/ended'\n"
    unit = f"[Service]\nType=oneshot\nRemainAfterExit=yes\n{stop}"
    with cli.up(file):
        cli.hostsim(
            *("--host", "hsend", "exec", "a", "--", "sh", "-c"),
            'printf %s "$0" > /run/systemd/system/last.service; systemctl start last',
            unit,
        )
    assert (keep / "up/root/ended").read_text() == "ended\n"
    (keep / "up/root/ended").unlink()
    cli.hostsim("up", str(file))
    try:
        group = Path(next(one["cgroup"] for one in cli.ask("--host", "hsend", "status")["vms"]))
        cli.kill_daemon("hsend")
    finally:
        cli.hostsim("clean")
    assert not group.exists()
    assert not (keep / "up/root/ended").exists()
    with cli.up(file):
        pass


def test_an_init_that_cannot_be_executed(make_vm: MakeVm, tmp_path: Path) -> None:
    root = roots.busybox(tmp_path)
    (root / "sbin/init").unlink()
    with pytest.raises(HostsimError, match="no /sbin/init that this machine can run"):
        make_vm(root=RootSpec(str(root), boot=True))
    (root / "sbin/init").write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb6\0" + bytes(500))
    (root / "sbin/init").chmod(0o755)
    with pytest.raises(HostsimError, match="no /sbin/init that this machine can run"):
        make_vm("b", root=RootSpec(str(root), boot=True))


def test_an_os_that_does_not_come_up_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Its init is called as systemd's is, and gives up."""
    root = roots.busybox(tmp_path)
    (root / "sbin/init").unlink()
    source = '#include <unistd.h>\nint main(void) { return write(2, "no disk\\n", 8) == 8; }\n'
    made = ("gcc", "-static", "-x", "c", "-o", str(root / "sbin/systemd"), "-")
    subprocess.run(made, input=source, text=True, check=True)
    (root / "sbin/init").symlink_to("systemd")
    file = tmp_path / "hsbad.toml"
    file.write_text('[host]\nname = "hsbad"\n[[vm]]\nname = "a"\nroot = "./root"\nboot = true\n')
    done = cli.hostsim("up", str(file), check=False)
    assert done.returncode == 1
    assert "VM a: its init has ended before it was ready: no disk" in done.stderr


def test_another_init_is_up_when_it_runs(make_vm: MakeVm, tmp_path: Path) -> None:
    made = make_vm(root=RootSpec(str(roots.busybox(tmp_path)), boot=True))
    assert not made.systemd
    assert made.run(["cat", "/proc/1/comm"]).stdout == b"init\n"
    assert made.run(["sh", "-c", "mount | grep /dev/console; tty < /dev/console"]).returncode == 0


def test_bench_boot_prints_the_contracts_document(root: Path) -> None:
    """One OS, one run, with systemd-nspawn beside it if that is installed."""
    found = cli.ask("bench", "boot", "--case", "systemd", "--runs", "1", "--root", str(root))
    assert found["bench"] == "boot"
    (case,) = found["cases"]
    assert (case["case"], case["unit"]) == ("systemd", "s")
    assert case["value"] > 0
    peers = {"nspawn"} if shutil.which("systemd-nspawn") else set()
    assert set(case["peers"]) == set(case["ratio"]) == peers


def test_bench_boot_without_a_root() -> None:
    done = cli.hostsim("bench", "boot", "--root", "/nowhere", check=False)
    assert done.returncode == 1
    assert "root: /nowhere: No such file or directory" in done.stderr
