# SPDX-License-Identifier: Apache-2.0
"""What a person sees: keys as they are, whatever brackets and colons they have."""

import pytest

from hostsim.cli import show

KEY = "tcp:[fd00:18::10]:5>[fd00:18::20]:80"


def test_an_ipv6_key_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    hop = {"vm": "a", "to": "b", "path": "veth", "packets": 1, "bytes": 2, "reason": "[x] :dog:"}
    show.flows([{"key": KEY, "route": 0, "hops": [hop]}])
    said = capsys.readouterr().out
    assert KEY in said
    assert "[x] :dog:" in said


def test_an_explanation_has_its_flow(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"flow": KEY, "vm": "a", "route": None, "direction": "forward", "live": False}
    found |= {"next": "bridge", "why": "no route", "contents": None, "undecided": False}
    show.explanation(found | {"mirror": None, "hops": []})
    assert KEY in capsys.readouterr().out
