# SPDX-License-Identifier: Apache-2.0
"""The questions that the daemon has a child answer (asides.py): all that read the tables of flows.

Each takes a request, and gives what the child is to say; `last`: also if packets are under way.
"""

from collections.abc import Callable, Iterator
from typing import Any

from hostsim import protocol
from hostsim.asides import Again
from hostsim.errors import HostsimError
from hostsim.routing.only import Only
from hostsim.routing.report import Report

Request = dict[str, Any]
Messages = Iterator[Request]
Question = Callable[[bool], Messages]


def answers(report: Callable[[], Report]) -> dict[str, Callable[[Request], Question]]:
    """By operation. report: the data plane's, now."""

    def flows(request: Request) -> Question:
        only = _only(request)
        return lambda last: protocol.pieces(report().flows(only))

    def rules(request: Request) -> Question:
        only = _only(request)
        return lambda last: protocol.pieces(report().rules(only))

    def routes(request: Request) -> Question:
        return lambda last: protocol.pieces(report().routes())

    def explain(request: Request) -> Question:
        vm, flow = protocol.text(request, "vm"), protocol.text(request, "flow")
        return lambda last: iter([protocol.success(report().explain(vm, flow))])

    def verify(request: Request) -> Question:
        only = _only(request)
        return lambda last: _verify(report(), only, last)

    return {
        "flows": flows,
        "rules": rules,
        "routes": routes,
        "explain": explain,
        "verify": verify,
    }


def _verify(report: Report, only: Only, last: bool) -> Messages:
    rows = only.rows(report.verify())
    if not last and any(row["missing"] or row["beside"] for row in rows):
        raise Again
    yield from protocol.pieces(rows)


def _only(request: Request) -> Only:
    """Raises HostsimError."""
    match, limit = request.get("match", ""), request.get("limit")
    if not isinstance(match, str) or not (limit is None or (isinstance(limit, int) and limit >= 0)):
        raise HostsimError(str(request.get("op")), "match is text, and limit a number")
    return Only(match, limit)
