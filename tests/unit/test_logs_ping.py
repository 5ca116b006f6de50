# SPDX-License-Identifier: Apache-2.0
"""What `hostsim logs` and `hostsim ping` make of what VMs wrote."""

import threading
from pathlib import Path
from typing import BinaryIO

from help.waiting import until
from hostsim.cli.logs import _follow, printable
from hostsim.cli.ping import answers


def test_a_log_cannot_command_a_terminal() -> None:
    wrote = b"ok\tyes \xc3\x80\n\x1b[2Jgone\x07 \xff \xc2\x9b31m\r\n"
    said = printable(wrote).decode()
    assert said == "ok\tyes À\n\\x1b[2Jgone\\x07 \\xff \\x9b31m\\r\n"


def test_a_log_is_followed_over_its_renaming(tmp_path: Path) -> None:
    log, seen = tmp_path / "a.log", bytearray()
    log.write_bytes(b"before\n")

    def follow() -> None:
        for data in _follow(log):
            seen.extend(data)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        with log.open("ab") as file:
            until(lambda: append(file, b"x") and seen)
        begun = len(seen)
        with log.open("ab") as file:
            append(file, b"last\n")
            log.rename(tmp_path / "a.log.1")
            log.write_bytes(b"first\n")
        until(lambda: b"first\n" in seen)
        assert bytes(seen[begun:]).lstrip(b"x") == b"last\nfirst\n"
        with log.open("ab") as file:
            append(file, b"second\n")
        until(lambda: b"second\n" in seen)
    finally:
        log.unlink()
        thread.join(10)
    assert not thread.is_alive()


def append(file: BinaryIO, data: bytes) -> bool:
    file.write(data)
    file.flush()
    return True


def test_who_has_not_answered_is_lost() -> None:
    others = [("b", "198.18.0.2"), ("c", "198.18.0.3"), ("d", "fd00::4")]
    rows = answers("a", others, "198.18.0.2 0.045\nfd00::4 -\nnonsense\n")
    assert [(row["to"], row["ms"]) for row in rows] == [("b", 0.045), ("c", None), ("d", None)]
