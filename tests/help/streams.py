# SPDX-License-Identifier: Apache-2.0
"""Traffic of a host's ends, from outside of the daemon, that knows what of it has come."""

import socket
import threading

from cext.bench import stream
from hostsim import Host


class Stream(threading.Thread):
    """Numbered datagrams from the client to a port of the server's, and what came of them."""

    def __init__(self, host: Host, port: int, count: int, rate: int) -> None:
        super().__init__(name=f"to {port}")
        self.port = port
        self.sent: dict[str, int] = {}
        self.came: dict[str, int] = {}
        self._many = (count, rate)
        self._far = host["server"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._near = host["client"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._far.setsockopt(1, 33, stream.BUFFER)  # SO_RCVBUFFORCE
        self._far.bind(("198.18.0.20", port))
        self._near.connect(("198.18.0.20", port))
        self.key = f"udp:198.18.0.10:{self._near.getsockname()[1]}>198.18.0.20:{port}"

    def goes_by(self, host: Host, path: str) -> bool:
        """Send one packet more, which does not count; whether the flow goes by this path now."""
        self._near.send(b"before")
        self._far.recv(64)
        (flow,) = host.flows(self.key)
        return {hop.path for hop in flow.hops if hop.to != "bridge"} == {path}

    def run(self) -> None:
        count, rate = self._many
        hears = threading.Thread(target=self._hear, name=f"{self.name} hears")
        hears.start()
        self.sent = stream.send(self._near, 64, count, 170_000, rate)
        hears.join()

    def _hear(self) -> None:
        self.came = stream.receive(self._far, self._many[0], 30_000)

    def close(self) -> None:
        """Once all is sent, and has come or does not come any more."""
        if self.ident is not None:
            self.join()
        self._near.close()
        self._far.close()


def by(host: Host, one: Stream, path: str) -> int:
    """How many packets of a stream went from VM to VM by this path."""
    hops = [hop for flow in host.flows(one.key) for hop in flow.hops]
    return sum(hop.paths[path].packets for hop in hops if path in hop.paths)
