# SPDX-License-Identifier: Apache-2.0
"""The project's errors: what failed, why, and what to do about it.

Every layer raises one of these, or OSError from the kernel. What a person asked for fails with it,
in one line: the command line and the daemon's request loop print it. What goes on without a
request (a restart, a flip's driver, a rule that cannot be written) is logged by its owner and goes
on. Pure.
"""

from netns.errors import HostsimError

__all__ = ["HostFileError", "HostsimError", "UsageError", "reason"]


class UsageError(HostsimError):
    """Wrong use of a command (exit status 2)."""

    status = 2


class HostFileError(HostsimError):
    """A wrong host file, found before anything was made. `what` is the file and line or table."""


def reason(error: BaseException) -> str:
    """Why something failed, in one line: of OSError no number, of an error that nobody expected its
    type."""
    if isinstance(error, HostsimError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
