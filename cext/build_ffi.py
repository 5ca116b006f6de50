# SPDX-License-Identifier: Apache-2.0
"""Writes the C source of the extension module `cext._native` (cffi, API mode).

    build_ffi.py OUT.c FILE.cdef...

Each .cdef holds declarations for cffi; lines that start with `#include` at its top go into the
C source instead, so that the compiler checks every declaration against the real header.
"""

import sys
from pathlib import Path

from cffi import FFI


def main(out: str, cdefs: list[str]) -> None:
    ffi = FFI()
    source: list[str] = ["#ifndef _GNU_SOURCE", "#define _GNU_SOURCE", "#endif"]
    for path in cdefs:
        lines = Path(path).read_text().splitlines()
        source += [line for line in lines if line.startswith("#include")]
        ffi.cdef("\n".join(line for line in lines if not line.startswith("#include")))
    ffi.set_source("cext._native", "\n".join(source))
    ffi.emit_c_code(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
