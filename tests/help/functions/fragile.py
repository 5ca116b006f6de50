# SPDX-License-Identifier: Apache-2.0
"""Network functions that break."""

from pathlib import Path

from hostsim.nf import Port

assert not Path(__file__).with_name("broken").exists(), "the file `broken` breaks it"
print("loaded", flush=True)


def fragile(port: Port) -> None:
    """Raises at a datagram that says `die`."""
    for batch in port:
        for packet in batch:
            if bytes(packet[42:45]) == b"die":
                raise ValueError("a packet it cannot bear")
        port.send(batch)
