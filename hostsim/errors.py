"""The project's errors: what failed, why, and what to do about it.

Every layer raises one of these (or OSError from the kernel); only the command line and the
daemon's request loop catch them. Pure; imports nothing of the project.
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


class UsageError(HostsimError):
    """Wrong use of a command (exit status 2)."""

    status = 2


class HostFileError(HostsimError):
    """A wrong host file, found before anything was made. `what` is the file and line or table."""
