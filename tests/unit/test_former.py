# SPDX-License-Identifier: Apache-2.0
"""What packet functions had counted that have left: hostsim/nf/former.py."""

from cext.switch.records import Account, Tuple
from hostsim.nf.former import Former
from hostsim.routing.accounts import Books

FLOW = Tuple(4, 17, bytes([198, 18, 0, 10]), 1, bytes([198, 18, 0, 20]), 2)
ONE, TWO = 1, 2


def account(vm: int, peer: int, *counts: int) -> Account:
    return Account(vm, FLOW, peer, 2, 1000, (*counts, *(0,) * (8 - len(counts))))


def test_it_counts_as_before_until_it_is_folded() -> None:
    """Two has left, which got by ring what one sent; and sent that to the switch."""
    former, books = Former(), Books()
    sent = account(ONE, 0, 10, 10)
    former.keep(TWO, [account(TWO, ONE, 0, 10), account(TWO, 0, 10, 0, 0, 10)], (1,) * 8)
    now = books.snapshot([sent, *former.accounts], former.other)
    assert now.got == {(ONE, FLOW): 10}
    assert now.sent[TWO, FLOW].eth0 == (10, 0)
    assert now.other_sent == {TWO: 1}
    former.folded([account(TWO, ONE)])
    assert [(one.vm, one.peer) for one in former.accounts] == [(TWO, 0)]
    former.folded(former.accounts)
    assert former.accounts == []
    assert former.other == {TWO: (1,) * 8}


def test_a_number_that_comes_and_goes_again_adds_up() -> None:
    former = Former()
    for _ in range(2):
        former.keep(ONE, [], (1, 2))
    assert former.other == {ONE: (2, 4)}
