# SPDX-License-Identifier: Apache-2.0
"""Batches of netlink messages, on the receive buffer that a stock kernel allows."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from cext.ns.netns import new_netns
from netns import links, netlink
from netns.links import Batch, Rtnl

pytestmark = pytest.mark.root

STOCK = 212_992 // 2
"""net.core.rmem_max of kernels before 6.17; the kernel doubles what is asked for (socket(7))."""
MANY = 2000


@pytest.fixture
def rtnl() -> Iterator[Rtnl]:
    """In a namespace of its own."""
    netns_fd = new_netns()
    made = Rtnl(netns_fd)
    os.close(netns_fd)
    yield made
    made.close()


def ups(batch: Batch) -> None:
    for _ in range(MANY):
        batch.link("set", index=1, state="up")


@pytest.mark.parametrize("defended", [True, False], ids=["bounded", "as-it-was"])
def test_a_batch_of_any_size(rtnl: Rtnl, monkeypatch: pytest.MonkeyPatch, defended: bool) -> None:
    """The acknowledgements of one send fit the buffer. Defence: few messages a send."""
    rtnl._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STOCK)
    if defended:
        rtnl.batch(ups)
        return
    monkeypatch.setattr(links, "CHUNK_MESSAGES", 1 << 20)
    with pytest.raises(OSError, match="No buffer space"):
        rtnl.batch(ups)


def test_the_buffer_is_not_what_the_machine_allows_others(rtnl: Rtnl) -> None:
    assert rtnl._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * (4 << 20)


def test_an_acknowledgement_that_nobody_read_is_not_the_next_batchs(rtnl: Rtnl) -> None:
    """The first batch is broken off when it is sent; the second one's own answers count."""
    (chunk,) = rtnl._chunks(links._compiler.submit(links._compile, two_wrong).result())
    rtnl._socket.send(chunk[0])
    rtnl.batch(lambda batch: batch.link("set", index=1, state="up"))
    with pytest.raises(OSError, match="No such device"):
        rtnl.batch(lambda batch: batch.link("set", index=4711, state="up"))


def two_wrong(batch: Batch) -> None:
    batch.link("set", index=4712, state="up")
    batch.link("del", index=4712)


def test_the_first_error_comes_out_and_all_is_done_all_the_same(rtnl: Rtnl) -> None:
    def fill(batch: Batch) -> None:
        batch.link("set", index=4711, state="up")
        for _ in range(MANY):
            batch.link("set", index=1, mtu=1500)
        batch.link("set", index=1, state="up")

    with pytest.raises(OSError, match="No such device"):
        rtnl.batch(fill)
    (lo,) = rtnl.links()
    assert (lo["flags"] & 1, lo.get_attr("IFLA_MTU")) == (1, 1500)
    rtnl.batch(fill, (errno.ENODEV,))


def test_numbers_of_chunks() -> None:
    """Each message has a number of its own, in order, over all chunks."""
    made = Rtnl.__new__(Rtnl)
    made._sequence = 7
    raw = b"".join(netlink.pad(netlink.pack(16, 1, 0, bytes(size))) for size in range(1000))
    chunks = made._chunks(raw)
    seen = [
        netlink.sequence(message) for chunk, _ in chunks for _, message in netlink.messages(chunk)
    ]
    assert seen == [number for _, numbers in chunks for number in numbers] == [*range(8, 1008)]
    assert max(len(numbers) for _, numbers in chunks) == links.CHUNK_MESSAGES
    assert max(len(chunk) for chunk, _ in chunks) <= links.CHUNK_BYTES
