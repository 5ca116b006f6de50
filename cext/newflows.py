"""A stream of new flows, to see how many a switch decides: wraps newflows.h."""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address

from cext import check
from cext._native import ffi, lib
from cext.sock import socket_at

PORTS = 60000  # HS_NEWFLOWS_PORTS: flows of one source address
_BUFFER = 8 << 20  # bytes; the receiver must not be what loses
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Sent:
    """What became of a stream."""

    sent: int
    got: int
    lost: int
    seconds: float  # from the first packet sent to the last that came


class Ends:
    """Both ends of a stream. Owns their sockets; `close` may be called twice.

    sender, receiver: descriptors of network namespaces, not kept. The frames leave by `interface`
    of the sender, from `macs[0]` to `macs[1]`; they arrive at `target`:`port`, an
    address of the receiver. source: the address of the first PORTS flows; the next ones follow.
    """

    def __init__(
        self,
        sender: int,
        interface: str,
        receiver: int,
        macs: tuple[str, str],
        source: IPv4Address,
        target: tuple[IPv4Address, int],
    ) -> None:
        self._macs = [bytes.fromhex(mac.replace(":", "")) for mac in macs]
        self._source, self._target = source, target
        self._out = socket_at(sender, socket.AF_PACKET, socket.SOCK_RAW)
        self._in = socket_at(receiver, socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._out.bind((interface, 0))
            self._in.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._in.bind((str(target[0]), target[1]))
        except OSError:
            self.close()
            raise

    def run(self, first: int, count: int, window: int, ms: int) -> Sent:
        """Flows first..first + count, at most `window` on their way, for at most `ms`
        milliseconds. Raises OSError."""
        run = ffi.new("struct hs_newflows *")
        run.to, run.source, run.target = self._macs[1], int(self._source), int(self._target[0])
        setattr(run, "from", self._macs[0])
        run.port, run.window, run.first, run.count = self._target[1], window, first, count
        run.ms = ms
        done = lib.hs_newflows_run(self._out.fileno(), self._in.fileno(), run)
        check(done, "a stream of new flows")
        return Sent(run.sent, run.got, run.lost, run.ns / 1e9)

    def close(self) -> None:
        """Twice is harmless."""
        self._out.close()
        self._in.close()
