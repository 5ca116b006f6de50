# SPDX-License-Identifier: Apache-2.0
"""What Python calls the data plane's numbers is what the headers of C call them."""

import re
from pathlib import Path

import pytest
from cext._native import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from cext.switch import maps, records
from cext.switch.drops import LINK_LOSS
from cext.switch.records import Verdict
from hostsim.routing.verify import QUEUE_FULL

NUMBERS = {
    name: value for name, value in vars(records).items() if name.isupper() and type(value) is int
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_headers(name: str) -> None:
    assert getattr(lib, f"HS_{name}") == NUMBERS[name]


def names_of(enum: str, prefix: str) -> list[str]:
    """The names of an enum of C in the order of their values, as Python writes them."""
    elements: dict[int, str] = ffi.typeof(enum).elements
    return [elements[at].removeprefix(prefix).lower() for at in sorted(elements)]


def test_the_names_of_counters_are_in_the_headers_order() -> None:
    counters = [name.replace("-", "_") for name in records.COUNTERS]
    assert counters == names_of("enum hs_counter", "HS_C_")
    assert len(counters) == lib.HS_REASONS


def test_what_a_flows_entry_counts_as_dropped_has_a_counters_name() -> None:
    assert len(records.DROPPED_BY) == lib.HS_BY_NAMES
    assert {*records.DROPPED_BY} <= {*records.COUNTERS}


def test_every_name_of_a_loss_or_counter_has_a_row() -> None:
    text = Path(__file__).parents[2].joinpath("hostsim", "routing", "README.md").read_text()
    rows = re.findall(r"(?m)^\| (`[^|]*) \| (?:yes|no) \|", text)
    said = set(re.findall(r"`([a-z0-9-]+)`", " ".join(rows)))
    losses = {name for name in records.ACCOUNT_COUNTS if "_" not in name and name != "sent"}
    books = {"function-full", "no-function", "function-died", LINK_LOSS, QUEUE_FULL}
    assert said == {*records.COUNTERS, *losses, *books}


def test_the_names_of_a_tallys_counts_are_in_the_headers_order() -> None:
    counts = [name.replace("-", "_") for name in records.ACCOUNT_COUNTS]
    assert [*counts, "counts"] == names_of("enum hs_tally_count", "HS_T_")


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535))
def test_a_verdict_is_unpacked_as_it_was_packed(
    epoch: int, flags: int, action: int, to: int
) -> None:
    word = lib.hs_verdict(epoch, flags, action, to)
    parts = (lib.hs_epoch_of, lib.hs_flags_of, lib.hs_action_of, lib.hs_to_of)
    assert maps.unpack_verdict(word) == Verdict(epoch, flags, action, to)
    assert maps.unpack_verdict(word) == Verdict(*(part(word) for part in parts))
