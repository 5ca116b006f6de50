# SPDX-License-Identifier: Apache-2.0
"""What a service's manager is told, lines for the journal, the unit, and what `install` writes."""

import argparse
import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hostsim import service
from hostsim.cli import install, manpages
from hostsim.cli.main import command_line
from hostsim.cli.tools import BENCHES
from hostsim.hostfile import file as hostfile
from hostsim.hostfile import source

COMMAND = str(Path(sys.executable).with_name("hostsim"))


def listener(address: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(address)
    made.settimeout(60)
    return made


def test_the_manager_hears_of_each_stretch(tmp_path: Path) -> None:
    """By a path and by an abstract name; the variables are taken out."""
    abstract = f"hostsim-test-{os.getpid()}"
    for address, shown in ((str(tmp_path / "n"), str(tmp_path / "n")), (f"\0{abstract}", "")):
        with listener(address) as told:
            env = {"NOTIFY_SOCKET": shown or f"@{abstract}", "WATCHDOG_USEC": "20000", "X": "1"}
            manager = service.Manager.of(env)
            assert env == {"X": "1"}
            assert manager.watched

            async def life(manager: service.Manager = manager) -> list[bytes]:
                manager.ready("up")
                loop = asyncio.get_running_loop()
                heard = [await loop.run_in_executor(None, told.recv, 100) for _ in range(4)]
                manager.stopping()
                return heard

            assert asyncio.run(life())[:4] == [b"READY=1\nSTATUS=up", *[b"WATCHDOG=1"] * 3]
            manager.close()
            manager.close()
            while (last := told.recv(100)) == b"WATCHDOG=1":
                pass
            assert last.startswith(b"STOPPING=1\n")


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_PID": "1", "WATCHDOG_USEC": "5"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000000", "JOURNAL_STREAM": "x"},
    ],
)
def test_nobody_to_tell_is_no_error(env: dict[str, str]) -> None:
    manager = service.Manager.of(env)
    assert not env
    assert not manager.watched
    assert not manager.journal
    manager.ready("up")
    manager.stopping()
    manager.close()


def test_lines_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "a\nb %d", (1,), None)
    assert service.Lines().format(record) == "<3>a\n<3>b 1"
    levels = {getattr(logging, name): f"<{n}>" for name, n in (("INFO", 6), ("WARNING", 4))}
    for level, prefix in (*levels.items(), (logging.CRITICAL, "<2>"), (logging.DEBUG, "<7>")):
        record = logging.LogRecord("x", level, "", 0, "a", (), None)
        assert service.Lines().format(record) == f"{prefix}a"
    here = os.fstat(2)
    assert service.Manager.of({"JOURNAL_STREAM": f"{here.st_dev}:{here.st_ino}"}).journal


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "hostsim@edge.service"
    file.write_text(service.unit(COMMAND))
    words = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(file))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if "hostsim" in line]
    assert (done.returncode, said) == (0, [])
    file.write_text(service.unit(COMMAND).replace("WatchdogSec", "WatchdogSecs"))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert "WatchdogSecs" in done.stderr


def test_a_host_of_the_machine_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MACHINE", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert hostfile.load("edge").vms  # that ships
    for name in ("mine", "edge"):
        (tmp_path / f"{name}.toml").write_text(f'[host]\nname = "{name}"\n')
        assert hostfile.load(name).path == tmp_path / f"{name}.toml"
        assert not hostfile.load(name).vms


def words_of(parser: argparse.ArgumentParser) -> set[str]:
    return {
        word
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for word in action.option_strings
    }


def test_each_command_has_a_page_with_all_its_options() -> None:
    whole = command_line()
    found = manpages.pages(whole)

    def hold(parser: argparse.ArgumentParser) -> int:
        text = found[f"{parser.prog.replace(' ', '-')}.1"].replace("\\-", "-")
        options = text.partition(".SH OPTIONS")[2]
        assert words_of(parser) <= set(re.findall(r"-[-\w]+", options)), parser.prog
        return 1 + sum(map(hold, manpages.commands(parser).values()))

    assert hold(whole) == len(found) > 30
    front = found["hostsim.1"].replace("\\-", "-")
    assert all(f"hostsim-{name}(1)" in front for name in manpages.commands(whole))


def test_what_is_installed(tmp_path: Path) -> None:
    """man shows each page without a warning, and the shells take their completion."""
    done = subprocess.run(
        (COMMAND, "install", str(tmp_path)), capture_output=True, text=True, check=True, timeout=60
    )
    names = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert done.stdout == f"{len(names)} files below {tmp_path}\n"
    made = install.files(command_line(), COMMAND)
    assert {str(path.relative_to(tmp_path)) for path in names} == set(made)
    pages = [path for path in names if path.suffix == ".1"]
    assert {f"hostsim-bench-{name}.1" for name in BENCHES} < {path.name for path in pages}
    words = ("groff", "-ww", "-man", "-Tutf8", "-Kutf8", "-P-cbou", *map(str, pages))
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert shown.stderr == ""
    assert shown.stdout.count("SYNOPSIS") == len(pages)
    unit = tmp_path / "lib/systemd/system/hostsim@.service"
    assert f"ExecStart={COMMAND} up --foreground %i\n" in unit.read_text()
    bash = tmp_path / "share/bash-completion/completions/hostsim"
    ask = "complete -p hostsim"
    subprocess.run(("bash", "-c", f". {bash} && {ask}"), check=True, capture_output=True)
    for path in (tmp_path / "share/fish/vendor_completions.d/hostsim.fish", tmp_path / "share/man"):
        assert path.exists()


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "share").write_text("")
    done = subprocess.run(
        (COMMAND, "install", str(tmp_path)), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"hostsim: install \S+: \S+: (Not a directory|File exists)\n", done.stderr)
