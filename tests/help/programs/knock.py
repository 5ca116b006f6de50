# SPDX-License-Identifier: Apache-2.0
"""Tries to reach a program of the machine's from a VM.

    knock.py SOCKET FIFO     connects to a UNIX socket, opens a FIFO for writing without waiting

Prints a JSON list: what became of each, the error's name or "done".
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Callable


def tried(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    path, fifo = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as sock:
        done = [
            tried(lambda: sock.connect(path)),
            tried(lambda: os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)),
        ]
    print(json.dumps(done))
