# SPDX-License-Identifier: Apache-2.0
"""The control protocol: what goes in comes out, errors included; nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostsim import protocol
from hostsim.errors import HostsimError, UsageError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_a_result_comes_back(value: object) -> None:
    line = protocol.encode(protocol.success(value))
    assert line.count(b"\n") == 1
    assert protocol.result(protocol.decode(line)) == value


@pytest.mark.parametrize("kind", [HostsimError, UsageError])
def test_an_error_comes_back(kind: type[HostsimError]) -> None:
    line = protocol.encode(protocol.failure(kind("flip", "no such OS", "work, play")))
    with pytest.raises(HostsimError, match="flip: no such OS; work, play") as caught:
        protocol.result(protocol.decode(line))
    assert caught.value.status == kind.status


@pytest.mark.parametrize("line", [b"", b"x\n", b"[1]\n", b'{"ok": fal\n', b"\xff\xfe\n"])
def test_nonsense_is_refused(line: bytes) -> None:
    with pytest.raises(HostsimError):
        protocol.decode(line)


@pytest.mark.parametrize("answer", [{}, {"ok": False}, {"ok": False, "error": "no"}])
def test_an_answer_that_is_none(answer: dict[str, object]) -> None:
    with pytest.raises(HostsimError):
        protocol.result(answer)
