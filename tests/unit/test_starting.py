# SPDX-License-Identifier: Apache-2.0
"""A daemon is started while its host file is still being checked: however that goes, none is left
that nobody waits for."""

import os
import signal
from pathlib import Path

import pytest

from hostsim.cli import client
from hostsim.errors import HostsimError
from hostsim.hostfile.file import parse


def instead(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have this script for a daemon; it is started with `--ready FD` behind it."""
    monkeypatch.setattr(client, "_command", lambda *_: ["sh", "-c", script])


def test_a_daemon_ends_if_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    with pytest.raises(ValueError, match="wrong"), client.Starting("x.toml", "") as starting:
        raise ValueError("wrong")
    assert starting._daemon.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(starting._daemon.pid, 0)


def test_ctrl_c_while_the_file_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    with (
        pytest.raises(client.Interrupted, match="interrupted; what was built is taken down again"),
        client.Starting("x.toml", "") as starting,
    ):
        raise KeyboardInterrupt
    assert starting._daemon.returncode == -signal.SIGTERM


def test_one_that_ends_without_a_word_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "echo no room >&2; exit 3")
    with (
        client.Starting("x.toml", "") as starting,
        pytest.raises(HostsimError, match="ended with status 3: no room"),
    ):
        starting.ready()


def test_one_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    monkeypatch.setattr(client, "START_DEADLINE", 0.01)
    with (
        client.Starting("x.toml", "") as starting,
        pytest.raises(HostsimError, match="not ready after"),
    ):
        starting.ready()
    assert starting._daemon.returncode == -signal.SIGTERM


@pytest.mark.parametrize("text", ["[host", '[host]\nname = "a b"\n'])
def test_the_daemon_refuses_what_its_starter_refuses(text: str) -> None:
    with pytest.raises(HostsimError) as ours:
        parse(text, Path("/x.toml"))
    with client.Starting("/x.toml", text) as starting, pytest.raises(HostsimError) as its:
        starting.ready()
    assert str(its.value) == str(ours.value)
    assert starting._daemon.returncode == 1
