# SPDX-License-Identifier: Apache-2.0
"""Where a program is looked for."""

from netns.process import candidates


def test_candidates() -> None:
    assert candidates("ls", "/usr/bin:/bin") == ["/usr/bin/ls", "/bin/ls"]
    assert candidates("./ls", "/usr/bin") == ["./ls"]
    assert candidates("/bin/ls", "/usr/bin") == ["/bin/ls"]
    assert candidates("ls", ":/bin") == ["./ls", "/bin/ls"]
