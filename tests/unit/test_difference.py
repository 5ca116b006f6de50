# SPDX-License-Identifier: Apache-2.0
"""What `hostsim apply` would do about a host file: hostsim/hostfile/difference.py."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from hostsim.errors import HostsimError
from hostsim.hostfile import difference
from hostsim.hostfile.file import parse
from hostsim.model import HostSpec, VmSpec

HEAD = '[host]\nname = "x"\n[[endpoint]]\nname = "client"\naddress = "198.18.0.10/24"\n'
A = '[[vm]]\nname = "a"\npids = 100\n'
B = '[[vm]]\nname = "b"\nrate = "10mbit"\n'
FIREWALL = 'nf = "firewall"\n'
RULE = '[[vm.rule]]\nmatch = { proto = "tcp" }\ndo = "accept"\n'
DEVICE = "[[device]]\nmatch = { name = 'x' }\n"
UDP = '[[route]]\nmatch = { proto = "udp" }\nthrough = ["a"]\n'
TCP = '[[route]]\nmatch = { proto = "tcp" }\nthrough = ["a"]\n'


def spec(text: str) -> HostSpec:
    return parse(HEAD + text, Path("x.toml"))


def lines(before: str, after: str) -> list[str]:
    return difference.plan(spec(before), spec(after)).lines


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (A, A, []),
        (A, A + B, ["VM b is added"]),
        (A + B, B, ["VM a is removed"]),
        (A, A + "[[endpoint]]\nname = 'e'\n", ["endpoint e is added"]),
        (A + UDP, A + TCP, ["routes: 1 new, 1 gone, 1 in all"]),
        (A + UDP, A + TCP + UDP, ["routes: 1 new, 0 gone, 2 in all"]),
        (A + UDP + TCP, A + TCP + UDP, ["routes: in another order"]),
        (B, B.replace("10", "20"), ["rate of b changes"]),
        ("", A + "nf = 'count'\n", ["VM a is added"]),
        (A + "nf = 'count'\n", "", ["VM a is removed"]),
        (A + "nf = 'count'\n", A + "nf = 'forward'\n", ["the packet function of a changes"]),
        (A + FIREWALL, A + FIREWALL + RULE, ["the packet function of a changes"]),
        ("", A + "[vm.os]\n" + DEVICE, ["OS a is added"]),
        (A + "[vm.os]\n", "", ["OS a is removed"]),
        (A + "root = '/x'\nboot = true\n", "", ["OS a is removed"]),
        (A + "[vm.os]\n", A + "[vm.os]\nrestart = 'on-failure'\n", ["[vm.os] of a changes"]),
        (A + "[vm.os]\n", A + "[vm.os]\n[kmc]\nmay_flip = []\n", ["[kmc] changes"]),
        (A, A + "[[link]]\nof = 'a'\nloss = '1%'\n", ["links: 1 new, 0 gone, 1 in all"]),
    ],
)
def test_each_change_is_a_line(before: str, after: str, told: list[str]) -> None:
    assert lines(before, after) == told


def test_who_stays_stays_as_it_runs() -> None:
    running = spec(A + B)
    other = A.replace("100", "50") + B.replace("10mbit", "20mbit") + UDP
    plan = difference.plan(running, spec(other))
    assert plan.ignored == ("pids of a",)
    assert [(vm.name, vm.pids, vm.rate) for vm in plan.spec.vms] == [
        ("a", 100, None),
        ("b", None, 20_000_000),
    ]
    assert len(plan.spec.routes) == 1
    assert (plan.added, plan.removed) == ((), ())
    assert difference.plan(plan.spec, spec(other)).lines == []


@pytest.mark.parametrize(
    ("before", "after", "ignored"),
    [
        (A, A + "nf = 'count'\n", ("nf of a",)),
        (A + "nf = 'count'\n", A, ("nf of a",)),
        (
            A + "nf = 'count'\n",
            A + "nf = 'nat'\naddress = '198.18.0.9/24'\n",
            ("address of a", "nf of a", "the tables of nf of a"),
        ),
        (A + "nf = 'count'\n", A + "nf = 'forward'\nmtu = 9000\n", ("nf of a", "mtu of a")),
    ],
)
def test_a_function_that_wants_another_vm_is_for_up(
    before: str, after: str, ignored: tuple[str, ...]
) -> None:
    plan = difference.plan(spec(before), spec(after))
    assert (plan.ignored, plan.lines) == (ignored, [])
    assert plan.spec.vms == spec(before).vms


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (A, A + "[vm.os]\n", r"a is an OS that runs, and its \[vm.os\] cannot change"),
        (A + "[vm.os]\n", A, r"a is an OS that runs, and its \[vm.os\] cannot change"),
        (A + "[vm.os]\n", A + "[vm.os]\nuinput = true\n", r"its \[vm.os\] uinput cannot change"),
        (A + "[vm.os]\n", A + "memory = '1G'\n[vm.os]\n", "its memory cannot change"),
        (A + "root = '/x'\nboot = true\n", A, "its root, keep, boot, users or containers cannot"),
        (A + "[vm.os]\n", A + "[vm.os]\n" + DEVICE, r"\[\[device\]\] cannot change while"),
        (
            A + "[vm.os]\n",
            A + "[vm.os]\n" + DEVICE.replace("name = 'x'", "sound = 'x'"),
            r"\[\[device\]\] sound cannot change",
        ),
        (A, A.replace("vm", "endpoint").replace("pids = 100", ""), "a is a VM, and an endpoint"),
    ],
)
def test_what_only_up_does_is_refused(before: str, after: str, why: str) -> None:
    with pytest.raises(HostsimError, match=why):
        lines(before, after)


def test_the_equipment_goes_with_the_last_os() -> None:
    its = ("name = 'x'", "screen = '*'", "sound = 'x'", "interface = 'eth7'")
    files = [A + "[vm.os]\n" + DEVICE.replace("name = 'x'", one) for one in its]
    for before in files:
        plan = difference.plan(spec(before), spec(""))
        assert (plan.lines, plan.ignored) == (["OS a is removed"], ())
        assert [getattr(plan.spec, name) for name in difference.EQUIPMENT] == [()] * 4
        assert plan.spec.kmc == spec("").kmc


def test_of_kmc_what_the_kmc_can_change_is_applied() -> None:
    both = A + "[vm.os]\n" + B + "[vm.os]\n"
    before, kmc = spec(both), "[kmc]\nrelease_timeout = '1s'\nfallback = 'b'\nmay_flip = ['b']\n"
    after = spec(kmc + "foreground = 'b'\nheld = 'carry-modifiers'\n" + both)
    plan = difference.plan(before, after)
    assert plan.ignored == ("[kmc] foreground or held",)
    assert plan.spec.kmc == replace(after.kmc, foreground="a", held="lift")
    assert plan.lines == ["[kmc] changes"]


def test_the_equipment_of_a_host_without_oses_comes_with_the_first() -> None:
    after = spec(A + "[vm.os]\n" + DEVICE + "[kmc]\nforeground = 'a'\n")
    plan = difference.plan(spec(""), after)
    assert (plan.spec.devices, plan.spec.kmc) == (after.devices, after.kmc)
    assert plan.ignored == ()


def test_each_field_of_a_host_is_applied_or_told() -> None:
    """A new one cannot be forgotten: `apply` changes it, or says that only `up` does."""
    applied = {"vms", "endpoints", "routes", "filters", "mirrors", "links"}
    of_host = {one.name for one in fields(HostSpec)} - {"path"}
    assert of_host == applied | difference.OF_HOST.keys()
    of_vm = {one.name for one in fields(VmSpec)} - {"name", "endpoint"}
    assert of_vm == {"rate"} | difference.OF_VM.keys()


def test_who_may_take_the_default_route_is_told() -> None:
    after = spec(A + '[switch]\nuplinks = ["x1"]\ntake_default_route = true\n')
    before = spec(A + '[switch]\nuplinks = ["x1"]\n')
    assert difference.plan(before, after).ignored == ("[switch] take_default_route",)
