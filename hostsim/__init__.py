# SPDX-License-Identifier: Apache-2.0
"""hostsim: one machine as a communications server and a multi-OS device.

`from hostsim import Host` is the laboratory (hostsim/lab/README.md). It is imported when somebody
asks for it: the command line does not wait for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostsim.errors import HostsimError as HostsimError
    from hostsim.lab.host import Host as Host

    __version__: str

__all__ = ["Host", "HostsimError", "__version__"]


def __getattr__(name: str) -> Any:
    """__version__ is the installed package's (PEP 562): looked up when somebody asks."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hostsim")
    if name == "Host":
        from hostsim.lab.host import Host

        return Host
    if name == "HostsimError":
        from hostsim.errors import HostsimError

        return HostsimError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
