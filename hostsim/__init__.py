"""hostsim: one machine as a communications server and a multi-OS device."""

from typing import Any


def __getattr__(name: str) -> Any:
    """__version__ is the installed package's (PEP 562): looked up when somebody asks."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hostsim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
