# SPDX-License-Identifier: Apache-2.0
"""Network functions in C that do not ship: a shared library with hs_nf (cext/include/hostsim/nf.h).

A plug-in says with which version of that header it was built (HS_NF_PLUGIN); one of another version
would read packets at wrong places, so it is refused before its function is called.
"""

import ctypes
import struct
import sys
from pathlib import Path
from typing import Any

from cext.port.port import NF_VERSION, judge_at
from hostsim.errors import HostsimError

REBUILD = "build it anew: cc -shared -fPIC $(hostsim nf --cflags)"


def load(path: Path) -> tuple[Any, ctypes.CDLL]:
    """The plug-in's function for `Port.run`, and the library, which must live as long.

    Raises HostsimError: it is no such library, has no hs_nf, or no version or another one.
    """
    what = f"plug-in {path.name}"
    if not path.is_file():
        raise HostsimError(what, f"{path} is {'no file' if path.exists() else 'not there'}")
    if _is_cut(path):
        raise HostsimError(what, "its end is missing", "build or copy it again")
    try:
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:  # from dlopen(3): no errno, and the path in front
        why = str(error).removeprefix(f"{path.absolute()}: ")
        raise HostsimError(what, f"does not load ({why})") from None
    try:
        function = library.hs_nf
    except AttributeError:
        raise HostsimError(what, "has no function hs_nf", "see hostsim/nf.h") from None
    try:
        version = ctypes.c_uint32.in_dll(library, "hs_nf_version").value
    except ValueError:
        why = f"has no version of hostsim/nf.h, {NF_VERSION} is wanted"
        raise HostsimError(what, why, f"write HS_NF_PLUGIN; in it and {REBUILD}") from None
    if version != NF_VERSION:
        why = f"has version {version} of hostsim/nf.h, {NF_VERSION} is wanted"
        raise HostsimError(what, why, REBUILD)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return judge_at(address), library


def _is_cut(path: Path) -> bool:
    """Whether the file ends before its section headers, the last thing in it (elf(5)), do: half
    written or half copied. The loader does not look, and whoever reads a page that is not there is
    killed by SIGBUS."""
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 64 or head[:6] != b"\x7fELF\2" + (b"\1" if sys.byteorder == "little" else b"\2"):
        return False  # nothing for this machine, which the loader says
    (start,) = struct.unpack_from("=Q", head, 40)
    size, count = struct.unpack_from("=HH", head, 58)
    return bool(start + size * count > path.stat().st_size)
