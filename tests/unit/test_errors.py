# SPDX-License-Identifier: Apache-2.0
"""What a person reads of an error: one line, with what there is to say."""

import errno

import pytest

from hostsim.errors import HostFileError, HostsimError, UsageError, reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
        (OSError(errno.EPERM, "Not allowed", "/dev/x"), "/dev/x: Not allowed"),
        (OSError("netlink ended"), "OSError: netlink ended"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("bad"), "ValueError: bad"),
        (KeyError(), "KeyError"),
        (HostsimError("nft", "it failed", "try again"), "nft: it failed; try again"),
        (HostsimError("a", "two\nlines\x1b[2J"), r"a: two\nlines\x1b[2J"),
    ],
    ids=["errno", "file", "text", "nothing", "other", "other-nothing", "ours", "escaped"],
)
def test_why_something_failed(error: BaseException, said: str) -> None:
    assert reason(error) == said


def test_what_a_command_ends_with() -> None:
    assert (HostsimError("a", "b").status, UsageError("a", "b").status) == (1, 2)
    assert str(HostFileError("f.toml", "no such key")).startswith("f.toml: no such key")
    assert "take it out" in str(HostsimError("a", "b", "take it out"))
