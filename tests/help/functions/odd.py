# SPDX-License-Identifier: Apache-2.0
"""Network functions that are slow, or do not do as the others do."""

import select

from cext._native import ffi, lib

from hostsim.nf import Port


def slow(port: Port) -> None:
    """Waits 4 ms with each batch."""
    for batch in port:
        select.select([], [], [], 0.004)
        port.send(batch)


def asleep(port: Port) -> None:
    """Takes nothing, and ends when it is told."""
    while select.select([port.control], [], [], 100)[0]:
        if not port.on_control():
            return


def thief(port: Port) -> None:
    """Keeps one frame of each neighbour that it looks at: hands it to itself as one of its own."""
    batch = ffi.new("struct xdp_desc[]", 64)
    for _ in iter(lambda: port.wait(1.0) != 2 or port.on_control(), False):
        for place in range(port.native.neighbours):
            into = ffi.addressof(port.native.neighbour[place], "in")
            for one in range(lib.hs_channel_recv(into, batch, 1)):
                if port.native.umem.origin[batch[one].addr // 2048] == 0:
                    lib.hs_umem_give(ffi.addressof(port.native.umem), batch[one].addr)
        port.send(port.recv())
