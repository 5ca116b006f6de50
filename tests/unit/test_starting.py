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


def starting(file: str, text: str = "") -> client.Starting:
    return client.Starting(file, client.interpreter(file, text))


def test_a_daemon_ends_if_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    with pytest.raises(ValueError, match="wrong"), starting("x.toml") as one:
        raise ValueError("wrong")
    assert one._daemon.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(one._daemon.pid, 0)


def test_ctrl_c_while_the_file_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    with (
        pytest.raises(client.Interrupted, match="interrupted; what was built is taken down again"),
        starting("x.toml") as one,
    ):
        raise KeyboardInterrupt
    assert one._daemon.returncode == -signal.SIGTERM


def test_one_that_ends_without_a_word_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "echo no room >&2; exit 3")
    with (
        starting("x.toml") as one,
        pytest.raises(HostsimError, match="ended with status 3: no room"),
    ):
        one.ready()


def test_one_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "exec sleep 600")
    monkeypatch.setattr(client, "START_DEADLINE", 0.01)
    with (
        starting("x.toml") as one,
        pytest.raises(HostsimError, match="not ready after"),
    ):
        one.ready()
    assert one._daemon.returncode == -signal.SIGTERM


@pytest.mark.parametrize("text", ["[host", '[host]\nname = "a b"\n'])
def test_the_daemon_refuses_what_its_starter_refuses(text: str) -> None:
    with pytest.raises(HostsimError) as ours:
        parse(text, Path("/x.toml"))
    with starting("/x.toml", text) as one, pytest.raises(HostsimError) as its:
        one.ready()
    assert str(its.value) == str(ours.value)
    assert one._daemon.returncode == 1
