# SPDX-License-Identifier: Apache-2.0
"""Metrics as Prometheus reads them: as text, or over HTTP (prometheus-client).

    text(host, ask)                     once
    serve(host, ask, listen, ready)     until SIGINT or SIGTERM, at http://127.0.0.1:9465/metrics

`hostsim_up` is 1 if the host's daemon answered, and alone, with 0, if it did not. Text: the
exposition format 0.0.4 or OpenMetrics, as the asker accepts.
"""

import ipaddress
import signal
from collections.abc import Callable, Iterator
from typing import Any

from hostsim.errors import HostsimError, UsageError
from hostsim.views import metrics

Ask = Callable[[], dict[str, Any]]

PORT = 9465
LOOPBACK = "127.0.0.1"
LISTEN = f"{LOOPBACK}:{PORT}"


def parse_address(text: str) -> tuple[str, int]:
    """Address and port of `ADDR:PORT`, `[ADDR]:PORT`, `:PORT` or `PORT`; without an address, the
    loopback's. Raises UsageError."""
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError("metrics --listen", f"{text!r} has no port", f"for example {LISTEN}")
    if not address:
        return LOOPBACK, int(port)
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        why = f"{address!r} is no IP address"
        raise UsageError("metrics --listen", why, f"for example {LISTEN}") from None
    return bare, int(port)


class _Collector:
    """Asks the daemon at each scrape (prometheus-client's custom collector)."""

    def __init__(self, host: str, ask: Ask) -> None:
        self._host = host
        self._ask = ask

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        up = GaugeMetricFamily("hostsim_up", "1 if the host's daemon answers", labels=("host",))
        try:
            found = metrics.families(self._ask())
        except HostsimError:
            up.add_metric((self._host,), 0)
            yield up
            return
        up.add_metric((self._host,), 1)
        yield up
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for family in found:
            shown = kinds[family.kind](family.name, family.help, labels=family.labels)
            for labels, value in family.samples:
                shown.add_metric(labels, value)
            yield shown

    def describe(self) -> list[Any]:
        """Nothing is asked when the collector is registered."""
        return []


def _registry(host: str, ask: Ask) -> Any:
    try:
        from prometheus_client import CollectorRegistry
    except ModuleNotFoundError:
        raise HostsimError(
            "metrics", "prometheus-client is not installed", "pip install 'hostsim[metrics]'"
        ) from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(host, ask))
    return registry


def text(host: str, ask: Ask) -> str:
    """All metrics, once. Raises HostsimError, also if the daemon does not answer."""
    status = ask()  # whoever asks once wants to know why there is no answer
    registry = _registry(host, lambda: status)
    from prometheus_client import generate_latest

    return str(generate_latest(registry).decode())


def serve(host: str, ask: Ask, listen: tuple[str, int], ready: Callable[[str], None]) -> None:
    """Answer scrapes until SIGINT or SIGTERM. ready: told the page's address. Raises HostsimError
    if the address is taken, or none of this machine's."""
    registry = _registry(host, ask)
    from prometheus_client import start_http_server

    address, port = listen
    ending = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # the server's threads have it blocked, too
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise _refused(address, port, error) from None
    shown = f"[{address}]" if ":" in address else address
    ready(f"http://{shown}:{port}/metrics")
    signal.sigwait(ending)
    server.shutdown()
    server.server_close()
    thread.join()


def _refused(address: str, port: int, error: OSError) -> HostsimError:
    return HostsimError(
        f"metrics --listen {address}:{port}", error.strerror or str(error), "choose another one"
    )
