# SPDX-License-Identifier: Apache-2.0
"""The ends of `hostsim bench chain`, as network functions. Wraps bench/port.h."""

from cext import check
from cext._native import ffi, lib
from cext.port.port import Port

SAMPLES = 4096


def ping(port: Port, packet: bytes) -> None:
    """Send the packet (its last eight bytes are a number then), wait for it, and again, until the
    port's control ends it. Its counters: `pings`, `lost`, and percentiles in ns of the second half
    of all, at most the last SAMPLES: `p50`, `p99`. Raises OSError."""
    times = ffi.new("uint64_t[]", SAMPLES)
    native = ffi.new("struct hs_ping *", {"samples": SAMPLES, "ns": times})

    def counters() -> dict[str, int]:
        count = min(SAMPLES, native.count // 2)
        last = sorted(times[at % SAMPLES] for at in range(native.count - count, native.count))
        found = {"pings": native.count, "lost": native.lost}
        return found | ({"p50": last[count // 2], "p99": last[count * 99 // 100]} if count else {})

    port.more_counters = counters
    while True:
        check(lib.hs_port_ping(port.native, packet, len(packet), native, port.control), "ping")
        if not port.on_control():
            return


def echo(port: Port) -> None:
    """Send UDP packets back to where they came from."""
    port.run(lib.hs_judge_echo)


def send(port: Port, packet: bytes) -> None:
    """Send datagrams like the packet, each with a number and a checksum of its own, as fast as they
    are taken, until the port's control ends it. Its counter: `made`. Raises OSError."""
    made = ffi.new("uint64_t *")
    port.more_counters = lambda: {"made": made[0]}
    port.native.pace.wait_on_full = 1
    while True:
        check(
            lib.hs_port_datagrams(port.native, packet, len(packet), made, port.control), "datagrams"
        )
        if not port.on_control():
            return


def verify(port: Port) -> None:
    """Verify the datagrams that come, and drop them. Its counters: `good`, `bad`."""
    native = ffi.new("struct hs_verified *")
    port.more_counters = lambda: {"good": native.good, "bad": native.bad}
    port.run(lib.hs_judge_verify, native)
