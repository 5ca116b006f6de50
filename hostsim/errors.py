"""The project's errors: what failed, why, and what to do about it.

Every layer raises one of these, or OSError from the kernel. What a person asked for fails with it,
in one line: the command line and the daemon's request loop print it. What goes on without a
request (a restart, a flip's driver, a rule that cannot be written) is logged by its owner and goes
on. Pure.
"""

from netns.errors import HostsimError

__all__ = ["HostFileError", "HostsimError", "UsageError"]


class UsageError(HostsimError):
    """Wrong use of a command (exit status 2)."""

    status = 2


class HostFileError(HostsimError):
    """A wrong host file, found before anything was made. `what` is the file and line or table."""
