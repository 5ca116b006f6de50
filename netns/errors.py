# SPDX-License-Identifier: Apache-2.0
"""The one error that every layer raises beside OSError: what failed, why, and what to do about it.

Pure; imports nothing of the project.
"""


class HostsimError(Exception):
    """Something failed. Printed as `hostsim: what: why; hint`, one line, exit status `status`."""

    status = 1

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}"
        return one_line(f"{text}; {self.hint}" if self.hint else text)


def one_line(text: str) -> str:
    """The text with everything escaped that is not to be printed: ends of lines, and what a
    terminal would take for a command."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )
