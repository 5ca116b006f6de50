# SPDX-License-Identifier: Apache-2.0
"""Metrics, pictures and the live view: what they make of the daemon's answers."""

import io
import subprocess
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from hostsim.errors import HostsimError, UsageError
from hostsim.views import dot, draw, exporter, mermaid, metrics, picture, rates, top

KEY = "udp:198.18.0.10:4000>198.18.0.20:9"


def node(name: str, **more: Any) -> dict[str, Any]:
    limits = {"memory": 1 << 20, "cpus": None, "pids": 7}
    one: dict[str, Any] = {
        "name": name,
        "os": False,
        "state": "running",
        "limits": limits,
        "drops": {},
    }
    return one | {"addresses": ["198.18.0.1/24"], "unlike": ""} | more


def status(packets: int = 0) -> dict[str, Any]:
    nf: dict[str, Any] = {
        "name": "count",
        "state": "running",
        "restarts": 2,
        "silent": False,
        "why": "",
    }
    counters = {"ring_out": packets, "ring_in": 0, "dropped": 3}
    port: dict[str, Any] = {
        "state": "up",
        "rx_packets": packets,
        "rx_bytes": 1,
        "tx_packets": 0,
        "tx_bytes": 2,
    }
    names = ("fw", "cnt", "client", "eth7")
    return {
        "host": "h",
        "foreground": "work",
        "vms": [
            node("fw", drops={"NO_SOCKET": 5}),
            node("cnt", nf=nf | {"counters": counters}),
            node("work", os=True, restarts=1),
        ],
        "endpoints": [node("client", state="dead")],
        "switch": {
            "netns": "hs-h-switch",
            "bridge": "br0",
            "ports": [port | {"name": name, "drops": 0} for name in names],
            "counters": {"plain": 9},
            "drops": None,
        },
        "devices": [
            {"name": 'Key "board" <1>\n', "node": "/dev/input/event1", "mode": "mirror"}
            | {"owner": "work"},
            {"name": "Mouse", "node": "/dev/input/event2", "mode": "direct", "owner": None}
            | {"why": "busy"},
        ],
        "loop_ms": 12.5,
        "loop_what": "status",
    }


def flows(packets: int, path: str = "veth") -> list[dict[str, Any]]:
    paths: dict[str, Any] = {name: {"packets": 0, "bytes": 0} for name in rates.PATHS}
    paths |= {path: {"packets": packets, "bytes": packets * 100}}
    hop: dict[str, Any] = {"vm": "fw", "to": "cnt", "path": path, "reason": "rule"}
    hop |= {"packets": packets, "bytes": packets * 100, "paths": paths}
    out: dict[str, Any] = {"vm": "cnt", "to": "bridge", "path": "switch", "reason": "outside"}
    out |= {"packets": packets, "bytes": packets * 100}
    out |= {"paths": {"switch": {"packets": packets, "bytes": packets * 100}}}
    return [{"key": KEY, "route": 0, "hops": [hop, out]}]


# -- rates ---------------------------------------------------------------------------------------


def test_a_flow_that_began_anew_has_no_negative_rate() -> None:
    assert [hop.per_s for hop in rates.hops(flows(50), flows(10), 2.0)] == [0, 0]
    assert [hop.per_s for hop in rates.hops(flows(10), flows(50), 2.0)] == [20, 20]
    assert [hop.per_s for hop in rates.hops([], flows(50), 2.0)] == [25, 25]
    assert [hop.per_s for hop in rates.hops([], flows(50), 0.0)] == [0, 0]


def test_lanes_are_summed_by_path() -> None:
    before, after = flows(10, "switch"), flows(30, "switch") + flows(6, "ring")
    after[1]["key"] = "another"
    found = {(lane.vm, lane.to, lane.path): lane.per_s for lane in rates.lanes(before, after, 2)}
    assert found == {
        ("fw", "cnt", "switch"): 10,
        ("fw", "cnt", "ring"): 3,
        ("cnt", "bridge", "switch"): 13,
    }


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0"), (0.4, "0.4"), (7.0, "7"), (999.7, "1000"), (12345, "12.3k"), (2.5e6, "2.5M")],
)
def test_a_rate_is_short(rate: float, text: str) -> None:
    assert rates.said(rate) == text


# -- metrics -------------------------------------------------------------------------------------


def test_every_figure_of_the_status_is_a_sample() -> None:
    found = {
        (family.name, *labels): value
        for family in metrics.families(status(40))
        for labels, value in family.samples
    }
    assert found["hostsim_switch_port_receive_packets", "h", "fw"] == 40
    assert found["hostsim_function_events", "h", "cnt", "count", "dropped"] == 3
    assert found["hostsim_kernel_dropped_packets", "h", "fw", "NO_SOCKET"] == 5
    assert found["hostsim_vm_state", "h", "client", "endpoint", "dead"] == 1
    assert found["hostsim_os_foreground", "h", "work"] == 1
    assert found["hostsim_loop_stall_seconds", "h"] == 0.0125
    assert found["hostsim_vm_memory_limit_bytes", "h", "fw"] == 1 << 20
    assert not [name for name in found if name[0] == "hostsim_vm_cpu_limit_cores"]


def test_promtool_finds_nothing() -> None:
    text = exporter.text("h", lambda: status(40))
    done = subprocess.run(
        ("promtool", "check", "metrics"), input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_a_daemon_that_is_gone_is_down() -> None:
    def gone() -> dict[str, Any]:
        raise HostsimError("host h", "is gone")

    from prometheus_client import generate_latest

    said = generate_latest(exporter._registry("h", gone)).decode()
    assert 'hostsim_up{host="h"} 0.0' in said
    with pytest.raises(HostsimError, match="is gone"):
        exporter.text("h", gone)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("9465", ("127.0.0.1", 9465)),
        (":80", ("127.0.0.1", 80)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_to_listen_on(text: str, listen: tuple[str, int]) -> None:
    assert exporter.parse_address(text) == listen


@pytest.mark.parametrize("text", ["", "x", "127.0.0.1", "127.0.0.1:", "a:1", "::1", "1.2.3.4:0"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        exporter.parse_address(text)


# -- the picture ---------------------------------------------------------------------------------


def drawn(packets: int = 30) -> picture.Picture:
    return picture.picture(status(), status(packets), flows(10), flows(packets), 2.0)


def test_the_picture_has_every_box_and_the_paths_rates() -> None:
    shown = drawn()
    ids = {box.id: box.name for box in shown.boxes}
    assert len(ids) == len(shown.boxes) == 3 + 1 + 1 + 1 + 2  # VMs, endpoint, uplink, switch, ...
    lines = {(ids[line.start], ids[line.end], line.kind): line for line in shown.lines}
    assert lines["fw", "cnt", "veth"].label == "veth 10/s"
    assert ('Key "board" <1>\n', "work", "owner") in lines
    assert [box.name for box in shown.boxes if box.ill] == ["client", "Mouse"]


def test_a_path_that_rests_is_drawn_only_if_no_other_is_busy() -> None:
    both = flows(10, "switch")
    later = flows(30, "veth")
    later[0]["hops"][0]["paths"]["switch"] = {"packets": 10, "bytes": 0}
    busy = picture.picture(status(), status(), both, later, 1.0)
    assert [line.kind for line in busy.lines if line.label.startswith(rates.PATHS)] == ["veth"]
    idle = picture.picture(status(), status(), later, later, 1.0)
    assert [line.label for line in idle.lines if line.kind in rates.PATHS] == ["veth, idle"]


def test_graphviz_draws_it_and_the_style_sheet_knows_light_and_dark() -> None:
    svg = draw.way("x.svg")(drawn())
    root = ElementTree.fromstring(svg)
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fw", "cnt", "work", 'Key "board" <1>?', "foreground"} <= set(words)
    assert any(word and "veth 10/s" in word for word in words)
    assert "prefers-color-scheme: dark" in svg
    kinds = [group.get("class", "") for group in root.iter("{http://www.w3.org/2000/svg}g")]
    assert "edge veth" in kinds
    assert "node os front" in kinds


def test_mermaid_escapes_what_devices_are_called() -> None:
    text = mermaid.mermaid(drawn())
    assert text.startswith("flowchart TB\n")
    assert "Key #quot;board#quot; #lt;1#gt;?" in text
    assert '==>|"veth 10/s"|' in text


def test_dot_is_what_graphviz_reads() -> None:
    done = subprocess.run(("dot", "-Tdot"), input=dot.dot(drawn()).encode(), check=False)
    assert done.returncode == 0


def test_no_graphviz_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostsimError, match="graphviz is not installed; apt install"):
        draw.way("-")(drawn())


def test_an_ending_that_is_none() -> None:
    with pytest.raises(UsageError, match=r"\.svg, \.dot, \.mmd"):
        draw.way("x.gif")


# -- the live view -------------------------------------------------------------------------------


def lines_of(state: top.State, columns: int, lines: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=columns, height=lines, markup=False, emoji=False)
    old, new = top.Sample(0.0, status(), flows(10)), top.Sample(2.0, status(30), flows(30))
    console.print(top.show(state, old, new, columns, lines))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("lines", [6, 10, 24])
def test_the_view_keeps_to_the_terminal(columns: int, lines: int) -> None:
    said = lines_of(top.State(), columns, lines)
    assert len(said) <= lines
    assert max(map(len, said)) <= columns


def test_forty_columns_say_what_counts() -> None:
    said = "\n".join(lines_of(top.State(), 40, 24))
    assert "fw→cnt" in said
    assert "198.18.0.20:9" in said
    assert "veth" in said
    assert " 10" in said


def test_keys() -> None:
    state = top.State()
    for key in "/fw\x7fw Veth\r":
        state = state.key(key)
    assert (state.filter, state.typing) == ("fw Veth", False)
    hops = rates.hops(flows(10), flows(30), 2.0)
    assert [hop.vm for hop in top.chosen(state, hops)] == ["fw"]
    assert state.key("\x1b").filter == ""
    assert state.key("q").ended
    assert not state.key("x").ended
    by_vm = top.State().key("v")
    assert [hop.vm for hop in top.chosen(by_vm, hops)] == ["cnt", "fw"]
    assert [hop.vm for hop in top.chosen(by_vm.key("r"), hops)] == ["fw", "cnt"]
    assert by_vm.key(" ").held
