# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the host file against the reader, which is the judge."""

import contextlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostsim.errors import HostFileError
from hostsim.hostfile import file as hostfile
from hostsim.hostfile import source
from hostsim.hostfile.matches import CONTENTS
from hostsim.hostfile.schema import LISTS, TABLES, schema

VM = '[host]\nname = "x"\n[[vm]]\nname = "a"\n[vm.os]\n[[vm]]\nname = "b"\n'
MATCH = "match = { proto = 'udp' }\n"
PLACES = {
    "host": '[host]\nname = "x"\n',
    "switch": VM + "[switch]\n",
    "endpoint": VM + '[[endpoint]]\nname = "c"\n',
    "vm": VM,
    "vm.os": VM + "[vm.os]\n",
    "vm.rule": VM + f"nf = 'firewall'\n[[vm.rule]]\n{MATCH}do = 'drop'\n",
    "vm.nat": VM + "nf = 'nat'\naddress = '198.18.0.1/24'\n[vm.nat]\n",
    "vm.source": VM + "nf = 'source'\n[vm.source]\nflow = 'udp:198.18.0.1:4>198.18.0.20:9'\n",
    "route": VM + f"[[route]]\n{MATCH}through = ['a']\n",
    "filter": VM + f"[[filter]]\n{MATCH}",
    "mirror": VM + f"[[mirror]]\n{MATCH}to = 'a'\n",
    "link": VM + "[[link]]\nof = 'a'\n",
    "device": VM + "[[device]]\nmatch = { name = 'x' }\n",
    "kmc": VM + "[kmc]\n",
}
"""A file that ends in each table, to which a key can be added."""
NOT_FOR_ALL = {"device": {"take_default_route"}}
"""Keys that the reader takes only beside others."""


def keys_of(place: str) -> set[str]:
    table: Any = TABLES[place.partition(".")[0]]
    for inner in place.split(".")[1:]:
        table = table["properties"][inner]
        table = table.get("items", table)
    return set(table["properties"])


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("place", PLACES)
def test_it_has_the_keys_that_the_reader_takes(place: str) -> None:
    with pytest.raises(HostFileError) as caught:
        hostfile.parse(PLACES[place] + "nosuchkey = 1\n", Path("x.toml"))
    assert "unknown key 'nosuchkey'" in str(caught.value), caught.value
    allowed = set(caught.value.hint.removeprefix("allowed: ").split(", "))
    assert keys_of(place) - NOT_FOR_ALL.get(place, set()) == allowed


@pytest.mark.parametrize("key", CONTENTS)
@pytest.mark.parametrize("place", ["route", "filter", "mirror", "vm.rule"])
def test_contents_are_for_routes_alone(place: str, key: str) -> None:
    """In the schema as for the reader."""
    text = PLACES[place].replace(MATCH, f"match = {{ {key} = 'a.test' }}\n")
    fits = not [*validator().iter_errors(tomllib.loads(text))]
    assert fits == (place == "route")
    with contextlib.nullcontext() if fits else pytest.raises(HostFileError):
        hostfile.parse(text, Path("x.toml"))


def test_every_table_of_the_reader_is_in_it() -> None:
    with pytest.raises(HostFileError) as caught:
        hostfile.parse("[nosuchtable]\n", Path("x.toml"))
    assert set(caught.value.hint.removeprefix("allowed: ").split(", ")) == set(TABLES)
    inner = {
        f"{name}.{key}"
        for name, table in TABLES.items()
        for key, value in table["properties"].items()
        if "properties" in value.get("items", value) and key != "match"
    }
    assert {*TABLES, *inner} == set(PLACES)
    assert set(LISTS) < set(TABLES)


@pytest.mark.parametrize("name", source.shipped())
def test_the_shipped_hosts_fit(name: str) -> None:
    text = source.shipped()[name].read_text()
    assert list(validator().iter_errors(tomllib.loads(text))) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[hots]\nname = 'x'\n", []),
        (VM + "[[route]]\nthrough = ['a']\n", ["route", 0]),
        (VM + "bypass = 1\n", ["vm", 1]),
        (VM + "[[route]]\nmatch = {}\nthrough = ['a']\n", ["route", 0, "match"]),
        (VM + "[kmc]\nheld = 'never'\n", ["kmc", "held"]),
        (VM + "memory = true\n", ["vm", 1, "memory"]),
    ],
)
def test_what_the_reader_refuses_by_its_shape_does_not_fit(text: str, where: list[Any]) -> None:
    with pytest.raises(HostFileError):
        hostfile.parse(text, Path("x.toml"))
    assert where in [list(error.path) for error in validator().iter_errors(tomllib.loads(text))]


VALUES = st.one_of(
    st.booleans(), st.integers(), st.text("ab1:/-", max_size=8), st.lists(st.text("a1"), max_size=2)
)


@settings(max_examples=400, deadline=None)
@given(place=st.sampled_from(sorted(PLACES)), data=st.data(), value=VALUES)
def test_whatever_the_reader_takes_fits(place: str, data: st.DataObject, value: object) -> None:
    key = data.draw(st.sampled_from(sorted(keys_of(place))))
    shown = json.dumps(value)
    text = f"{PLACES[place]}{key} = {shown}\n"
    try:
        hostfile.parse(text, Path("x.toml"))
    except HostFileError:
        return
    assert list(validator().iter_errors(tomllib.loads(text))) == []


def test_the_command_prints_it() -> None:
    command = (Path(sys.executable).with_name("hostsim"), "schema")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == schema()
