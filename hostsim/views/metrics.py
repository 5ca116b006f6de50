# SPDX-License-Identifier: Apache-2.0
"""The contract's `status` as Prometheus metrics: names, units and labels. Pure.

Names are as Prometheus' "Metric and label naming" and "Writing exporters" want them: base units,
`_total` for counters, one thing a name. Every sample has the label `host`. What `status` does not
know (a limit that is none, drops of a kernel that does not tell them) has no sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]
Labels = tuple[str, ...]


@dataclass
class Family:
    """One metric. name: without `_total`, which a counter's samples get."""

    name: str
    kind: str  # counter | gauge
    help: str
    labels: Labels
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def put(self, *labels: object, value: float) -> None:
        self.samples.append((tuple(map(str, labels)), value))


def families(status: Json) -> list[Family]:
    """Everything that `status` counts or says; families without a sample are left out."""
    found = [
        *_nodes(status),
        *_functions(status),
        *_switch(status),
        _drops(status),
        *_foreground(status),
        _devices(status),
    ]
    if "loop_ms" in status:
        loop = Family(
            "hostsim_loop_stall_seconds",
            "gauge",
            "Longest time that the daemon's loop was busy at a stretch since status was asked last",
            ("host",),
        )
        loop.put(status["host"], value=status["loop_ms"] / 1000)
        found.append(loop)
    return [family for family in found if family.samples]


def _kind(status: Json) -> Iterator[tuple[str, Json]]:
    for node in status["vms"]:
        yield ("os" if node["os"] else "vm"), node
    for node in status["endpoints"]:
        yield "endpoint", node


def _nodes(status: Json) -> list[Family]:
    labels = ("host", "vm")
    state = Family(
        "hostsim_vm_state",
        "gauge",
        "1 for the state that a VM or endpoint is in",
        (*labels, "kind", "state"),
    )
    restarts = Family("hostsim_vm_restarts", "counter", "Times that a VM was started again", labels)
    limits = {
        "memory": Family("hostsim_vm_memory_limit_bytes", "gauge", "Memory at most", labels),
        "cpus": Family("hostsim_vm_cpu_limit_cores", "gauge", "Processors at most", labels),
        "pids": Family("hostsim_vm_tasks_limit", "gauge", "Tasks at most", labels),
    }
    for kind, node in _kind(status):
        state.put(status["host"], node["name"], kind, node["state"], value=1)
        if "restarts" in node:
            restarts.put(status["host"], node["name"], value=node["restarts"])
        for name, limit in node.get("limits", {}).items():
            if limit is not None and name in limits:
                limits[name].put(status["host"], node["name"], value=limit)
    return [state, restarts, *limits.values()]


def _functions(status: Json) -> list[Family]:
    labels = ("host", "vm", "function")
    state = Family(
        "hostsim_function_state",
        "gauge",
        "1 for the state that a network function is in",
        (*labels, "state"),
    )
    silent = Family(
        "hostsim_function_silent", "gauge", "1 if a network function does not answer", labels
    )
    restarts = Family(
        "hostsim_function_restarts", "counter", "Times that a function was started again", labels
    )
    counted = Family(
        "hostsim_function_events",
        "counter",
        "What a network function counted, by its own names: mostly packets",
        (*labels, "event"),
    )
    for node in status["vms"]:
        if "nf" not in node:
            continue
        nf = node["nf"]
        at = (status["host"], node["name"], nf["name"])
        state.put(*at, nf["state"], value=1)
        silent.put(*at, value=int(nf["silent"]))
        restarts.put(*at, value=nf["restarts"])
        for event, count in nf["counters"].items():
            counted.put(*at, event, value=count)
    return [state, silent, restarts, counted]


def _switch(status: Json) -> list[Family]:
    labels = ("host", "port")
    words = {"rx": "receive", "tx": "transmit"}
    counters = {
        f"{way}_{unit}": Family(
            f"hostsim_switch_port_{word}_{unit}",
            "counter",
            f"{unit.capitalize()} that a port of the switch {word}s",
            labels,
        )
        for way, word in words.items()
        for unit in ("packets", "bytes")
    }
    counters["drops"] = Family(
        "hostsim_switch_port_dropped_packets",
        "counter",
        "Packets that a port of the switch dropped",
        labels,
    )
    up = Family("hostsim_switch_port_up", "gauge", "1 if a port of the switch is up", labels)
    events = Family(
        "hostsim_switch_events", "counter", "What the switch counted by name", ("host", "event")
    )
    for port in status["switch"]["ports"]:
        up.put(status["host"], port["name"], value=int(port["state"] == "up"))
        for name, family in counters.items():
            if name in port:
                family.put(status["host"], port["name"], value=port[name])
    for name, count in status["switch"].get("counters", {}).items():
        events.put(status["host"], name, value=count)
    return [up, *counters.values(), events]


def _drops(status: Json) -> Family:
    family = Family(
        "hostsim_kernel_dropped_packets",
        "counter",
        "Packets that the kernel dropped, by its own reason; vm is empty for the switch",
        ("host", "vm", "reason"),
    )
    places = [("", status["switch"].get("drops"))]
    places += [(node["name"], node.get("drops")) for _, node in _kind(status)]
    for name, drops in places:
        for reason, count in (drops or {}).items():
            family.put(status["host"], name, reason, value=count)
    return family


def _foreground(status: Json) -> list[Family]:
    family = Family(
        "hostsim_os_foreground",
        "gauge",
        "1 for the operating system in the foreground",
        ("host", "vm"),
    )
    for kind, node in _kind(status):
        if kind == "os":
            family.put(
                status["host"], node["name"], value=int(node["name"] == status["foreground"])
            )
    return [family]


def _devices(status: Json) -> Family:
    family = Family(
        "hostsim_device_owned",
        "gauge",
        "1 if an operating system has a piece of equipment; owner is empty if none has it",
        ("host", "device", "node", "mode", "owner"),
    )
    for device in status["devices"]:
        owner = device.get("owner") or ""
        words = (device.get("name"), device.get("node") or "", device.get("mode"), owner)
        family.put(status["host"], *words, value=int(bool(owner)))
    return family
