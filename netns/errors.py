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
        return f"{text}; {self.hint}" if self.hint else text
