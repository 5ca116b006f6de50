# SPDX-License-Identifier: Apache-2.0
"""A host of many VMs, through the command line."""

import subprocess
from pathlib import Path

import pytest

from help.cli import HOSTSIM, ask, hostsim, run
from hostsim.bench import up

pytestmark = pytest.mark.root


def test_more_vms_than_descriptors_at_login(tmp_path: Path) -> None:
    """Forty VMs under a soft limit of 64 open files; the first reaches the last."""
    file = tmp_path / "host.toml"
    file.write_text(up.host_file(40))
    run("sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", HOSTSIM, "up", str(file))
    try:
        node = ask("status", "--host", up.HOST)["vms"][39]
        assert (node["name"], node["state"]) == ("v40", "running")
        hostsim("exec", "--host", up.HOST, "v1", "--", "ping", "-c", "1", str(up.address(40)))
    finally:
        hostsim("down", "--host", up.HOST)


def test_bench_up_prints_the_contracts_document() -> None:
    """Smallest case, one run, with Mininet beside it."""
    found = ask("bench", "up", "--case", "20", "--runs", "1")
    assert found["bench"] == "up"
    (case,) = found["cases"]
    assert (case["case"], case["unit"]) == ("20", "s")
    assert case["value"] > 0
    assert set(case["peers"]) == set(case["ratio"]) == {"mininet"}
    assert case["ratio"]["mininet"] == pytest.approx(case["value"] / case["peers"]["mininet"])


def test_bench_up_says_what_is_wrong() -> None:
    done = subprocess.run(
        [HOSTSIM, "bench", "up", "--case", "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "hostsim: bench up: no case 7; there are: 20, 100, 300\n"
