# SPDX-License-Identifier: Apache-2.0
"""scapy in a VM: its functions run in the calling process and thread, its packets are the VM's.

    answer = client.scapy.sr1(IP(dst="198.18.0.20") / TCP(dport=80), timeout=2)
    with client.scapy.here():      any function of scapy's; packets are completed as at the VM
        bytes(IP(dst="198.18.0.20"))

Source addresses, MAC addresses and interfaces are found in the VM's tables, also by callbacks
(`prn`), which see the VM's `conf`. Threads do not see each other's. scapy is imported when it is
first asked for; its functions print nothing unless they are told to (`verbose`).
"""

import contextlib
import functools
import importlib
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hostsim.errors import HostsimError
from hostsim.lab.place import Place

if TYPE_CHECKING:
    from hostsim.lab.scapyconf import VmConf

STARTED = 10.0
"""Seconds that a sniffer has to open its sockets."""

_importing = threading.Lock()


def imported(module: str) -> Any:
    """A module that needs scapy. Raises HostsimError if there is none."""
    with _importing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scapy's own
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "scapy":
                raise
            raise HostsimError("scapy", "is not installed", "pip install scapy") from None


def _one_thread(options: dict[str, Any]) -> dict[str, Any]:
    """For a question with one answer: sent and waited for in one thread. With two, as scapy has it
    unless it is told, the one that sends may end a wait that is over, by a descriptor that is
    closed. For many packets, answers would wait too long in the socket."""
    return {"threaded": False, **options}


class Scapy:
    """scapy at one VM. Functions of scapy.all that are not listed here are found by their name."""

    def __init__(self, place: Callable[[], Place]) -> None:
        """place: where the VM is now. Raises HostsimError if there is no scapy."""
        sockets = imported("hostsim.lab.scapysockets")
        self._all = imported("scapy.all")
        self.conf: VmConf = imported("hostsim.lab.scapyconf").VmConf(place, sockets.bind)
        """What is the VM's of scapy's `conf`: verb (0 at first), route, ifaces, ..."""

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The calling thread is at the VM, for scapy. Raises HostsimError if the VM is gone."""
        with self.conf.here():
            yield

    def _call(self, name: str, *words: Any, **options: Any) -> Any:
        with self.conf.here():
            return getattr(self._all, name)(*words, **options)

    def sr1(self, x: Any, **options: Any) -> Any:
        """Send at layer 3; the first answer, or None after `timeout` seconds."""
        return self._call("sr1", x, **_one_thread(options))

    def sr(self, x: Any, **options: Any) -> Any:
        """Send at layer 3; what was answered, as pairs, and what was not."""
        return self._call("sr", x, **options)

    def srp1(self, x: Any, **options: Any) -> Any:
        """`sr1` at layer 2."""
        return self._call("srp1", x, **_one_thread(options))

    def srp(self, x: Any, **options: Any) -> Any:
        """`sr` at layer 2."""
        return self._call("srp", x, **options)

    def send(self, x: Any, **options: Any) -> Any:
        """Send at layer 3."""
        return self._call("send", x, **options)

    def sendp(self, x: Any, **options: Any) -> Any:
        """Send at layer 2."""
        return self._call("sendp", x, **options)

    def srloop(self, x: Any, **options: Any) -> Any:
        """`sr` again and again, `count` times."""
        return self._call("srloop", x, **options)

    def srploop(self, x: Any, **options: Any) -> Any:
        """`srp` again and again, `count` times."""
        return self._call("srploop", x, **options)

    def sniff(self, *words: Any, **options: Any) -> Any:
        """What comes by, in and out: until `count` packets, or for `timeout` seconds."""
        return self._call("sniff", *words, **options)

    def bridge_and_sniff(self, if1: Any, if2: Any, *words: Any, **options: Any) -> Any:
        """Hand packets on between two interfaces or sockets; sockets may be of two VMs."""
        return self._call("bridge_and_sniff", if1, if2, *words, **options)

    def L2socket(self, *words: Any, **options: Any) -> Any:
        """A socket at layer 2, scapy's own; the caller closes it."""
        return self.conf.L2socket(*words, **options)

    def L2listen(self, *words: Any, **options: Any) -> Any:
        """A socket that only reads, also what goes out; the caller closes it."""
        return self.conf.L2listen(*words, **options)

    def L3socket(self, *words: Any, **options: Any) -> Any:
        """A socket at layer 3, scapy's own; the caller closes it."""
        return self.conf.L3socket(*words, **options)

    def AsyncSniffer(self, *words: Any, **options: Any) -> Any:
        """scapy's AsyncSniffer, at the VM. Its `start` returns once it hears, and raises what keeps
        it from that."""
        return self._sniffer(self.conf, *words, **options)

    @functools.cached_property
    def _sniffer(self) -> Any:
        base: Any = self._all.AsyncSniffer

        class Sniffer(base):  # type: ignore[misc]
            """See `Scapy.AsyncSniffer`."""

            def __init__(self, conf: "VmConf", *words: Any, **options: Any) -> None:
                self._conf = conf
                self._hears = threading.Event()
                self._tell: Callable[[], Any] | None = options.pop("started_callback", None)
                super().__init__(*words, started_callback=self._started, **options)

            def _started(self) -> None:
                self._hears.set()
                if self._tell is not None:
                    self._tell()

            def _run(self, *words: Any, **options: Any) -> None:
                try:
                    with self._conf.here():
                        super()._run(*words, **options)
                finally:
                    self._hears.set()

            def start(self) -> None:
                self._hears.clear()
                self.exception = None
                super().start()
                if not self._hears.wait(STARTED):
                    raise HostsimError("sniffer", f"does not hear after {STARTED:g} s")
                if not self.running and self.thread is not None:
                    self.join()

        return Sniffer

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("_") else getattr(self._all, name, None)
        if not callable(found):
            raise AttributeError(f"scapy.all has no function {name!r}")
        return functools.partial(self._call, name)

    def close(self) -> None:
        """Twice is harmless."""
        self.conf.close()
