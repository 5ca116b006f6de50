# SPDX-License-Identifier: Apache-2.0
"""Packet network functions: their processes, rings, settings and books.

A function in Python needs `from hostsim.nf import Batch, Port` (cext/port/port.py) and no more.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cext.port.port import Batch, Port

__all__ = ["Batch", "Port"]

if not TYPE_CHECKING:  # to a type checker, every name would be one of this package

    def __getattr__(name: str) -> Any:
        """The two when they are asked for: modules of this package do not all need the
        extension."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from cext.port import port

        return getattr(port, name)
