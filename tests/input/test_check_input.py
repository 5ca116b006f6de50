# SPDX-License-Identifier: Apache-2.0
"""`hostsim check` if there is uinput: the probes for input devices really work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.uinput


def test_uinput_evdev_and_revoke() -> None:
    hostsim = Path(sys.executable).with_name("hostsim")
    done = subprocess.run((hostsim, "check", "--json"), stdout=subprocess.PIPE, check=True)
    found = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    for name in ("uinput", "evdev", "EVIOCREVOKE", "cgroup v2", "bridge", "veth pairs"):
        assert found[name]["ok"] is True, found[name]
    assert found["memory limits"]["detail"] == "through cgroup v2"
