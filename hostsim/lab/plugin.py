# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin (entry point `pytest11`): a host for a test.

    @pytest.mark.hostsim("edge")        or a path beside the test's file, or a host file's text
    def test_it(hostsim_host): ...

`hostsim_host` is the host of the nearest marker, up. Tests of one file that name the same one share
it. After each test its books are held against each other (`verify`). After the file's last test the
host is taken down, and nothing may be left of it. The report of a failed test has what its host has
to say: flows, drops, the end of the log. Without root the tests are skipped, with the reason.

Costs nothing while nobody asks for the fixture: the laboratory is imported by it.
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hostsim.lab.host import Host

MARK = "hostsim"
LINES = 30
"""Of the log, and of flows, in a report."""
SETTLE = 10.0
"""Seconds for what was taken down to be gone."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(file): the host that hostsim_host is")


class _Hosts:
    """The hosts of one test file, by what their marker says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._up: dict[str, Host] = {}
        self._before: frozenset[str] = frozenset()

    def get(self, wanted: str) -> "Host":
        from hostsim import leftovers

        if not self._up:
            self._before = leftovers.snapshot()
        if wanted not in self._up:
            self._up[wanted] = _host(wanted, self._folder).up()
        return self._up[wanted]

    def close(self) -> list[str]:
        """Take all down; what is left."""
        from hostsim import leftovers

        if not self._up:
            return []
        while self._up:
            self._up.popitem()[1].down()
        return leftovers.settle(self._before, SETTLE)


def _host(wanted: str, folder: Path) -> "Host":
    from hostsim.lab.host import Host

    if "\n" in wanted:
        return Host.from_toml(wanted)
    beside = folder / wanted
    return Host(beside if beside.exists() else wanted)


@pytest.fixture(scope="module")
def _hostsim_hosts(request: pytest.FixtureRequest) -> Iterator[_Hosts]:
    hosts = _Hosts(request.path.parent)
    yield hosts
    left = hosts.close()
    if left:
        pytest.fail(f"left behind: {', '.join(left)}", pytrace=False)


@pytest.fixture
def hostsim_host(request: pytest.FixtureRequest, _hostsim_hosts: _Hosts) -> Iterator["Host"]:
    """The host of the test's marker, up."""
    mark = request.node.get_closest_marker(MARK)
    if mark is None or len(mark.args) != 1 or not isinstance(mark.args[0], str):
        pytest.fail(f'which host? @pytest.mark.{MARK}("edge")', pytrace=False)
    if os.geteuid() != 0:
        pytest.skip("a host needs root")
    host = _hostsim_hosts.get(mark.args[0])
    yield host
    missing = [row for row in host.verify() if row.missing]
    if missing:
        lines = "\n".join(f"{row.vm} {row.key}: {row.missing} of {row.sent}" for row in missing)
        pytest.fail(f"packets that nothing accounts for:\n{lines}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    host = getattr(item, "funcargs", {}).get("hostsim_host")
    if host is not None and report.failed and call.when == "call":
        report.sections += [(f"hostsim {what}", text) for what, text in _told(host) if text]
    return report


def _told(host: "Host") -> Iterator[tuple[str, str]]:
    """What a host has to say of itself. A host that cannot be asked says why."""
    from hostsim.errors import HostsimError

    try:
        flows = host.flows(limit=LINES)
        drops = {node.name: node.drops for node in host.status().nodes if node.drops}
    except HostsimError as error:
        yield "host", str(error)
    else:
        yield "flows", "\n".join(_shown(flow) for flow in flows)
        yield "drops", "\n".join(f"{name}: {named}" for name, named in drops.items())
    yield "log", host.log(LINES)


def _shown(flow: Any) -> str:
    hops = ", ".join(f"{hop.vm} -> {hop.to} by {hop.path} ({hop.reason})" for hop in flow.hops)
    return f"{flow.key}: {hops}"
