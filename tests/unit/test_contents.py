# SPDX-License-Identifier: Apache-2.0
"""Parsers of contents: what real clients send, and every kind of nonsense."""

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostsim.routing import contents
from hostsim.routing.inspector import joined


def hello(name: str) -> bytes:
    """What OpenSSL sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = hello("www.Example.com")
REQUEST = b"GET / HTTP/1.1\r\nUser-Agent: x\r\nHost: Example.com:8080\r\n\r\n"
QUERY = (
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07Example\x03org\x00\x00\x01\x00\x01"
)


def test_sni() -> None:
    assert contents.sni(HELLO) == "www.example.com"
    assert all(contents.sni(HELLO[:n]) == contents.MORE for n in range(len(HELLO)))


def test_a_hello_over_two_records() -> None:
    body = HELLO[5:]
    split = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (body[:50], body[50:])
    )
    assert contents.sni(split) == "www.example.com"
    assert contents.sni(split[:40]) == contents.MORE


def test_http_host() -> None:
    assert contents.http_host(REQUEST) == "example.com"
    at = REQUEST.index(b"8080\r\n") + 6
    assert all(contents.http_host(REQUEST[:n]) == contents.MORE for n in range(1, at))
    assert contents.http_host(b"GET / HTTP/1.1\r\n\r\n") == contents.NONE
    assert contents.http_host(b"SSH-2.0-x\r\n") == contents.NONE
    assert contents.http_host(b"GET / HTTP/1.1\r\nHost: [fd00::1]:80\r\n\r\n") == contents.NONE


def test_dns_name() -> None:
    assert contents.dns_name(QUERY) == "www.example.org"
    assert contents.dns_name(len(QUERY).to_bytes(2, "big") + QUERY, tcp=True) == "www.example.org"
    assert contents.dns_name(QUERY[:2] + b"\x80" + QUERY[3:]) == contents.NONE
    assert contents.dns_name(QUERY[:20]) == contents.NONE


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (2, b"\x81"),  # an answer
        (2, b"\x28"),  # an update (RFC 2136), whose first section is a zone
        (5, b"\x00"),  # no question
        (16, b"\xc0\x0c"),  # a label that is elsewhere
        (16, b"\x40"),  # a label of another kind
        (13, b"w w"),  # no host name
    ],
    ids=["answer", "update", "no-question", "pointer", "extended", "blank"],
)
def test_what_is_no_question_for_a_name(at: int, new: bytes) -> None:
    data = QUERY[:at] + new + QUERY[at + len(new) :]
    assert contents.dns_name(data) == contents.NONE


def test_a_dns_name_is_as_long_as_a_name_may_be() -> None:
    def asked(*labels: int) -> str:
        name = b"".join(bytes([n]) + b"x" * n for n in labels)
        return contents.dns_name(QUERY[:12] + name + b"\0\0\x01\0\x01")

    assert asked(63, 63, 63, 61) == ".".join(("x" * 63,) * 3 + ("x" * 61,))
    assert asked(63, 63, 63, 62) == contents.NONE  # 254 characters
    assert asked(*[1] * 127) == ".".join(["x"] * 127)
    assert asked(*[1] * 129) == contents.NONE


@pytest.mark.parametrize("parser", [contents.sni, contents.http_host, contents.dns_name])
@given(data=st.binary(max_size=600))
def test_any_bytes(parser: Any, data: bytes) -> None:
    assert isinstance(parser(data), str)


@given(at=st.integers(0, 400), value=st.integers(0, 255), keep=st.integers(0, 600))
def test_a_hello_with_a_wrong_byte(at: int, value: int, keep: int) -> None:
    wrong = bytearray(HELLO)
    wrong[at % len(wrong)] = value
    name = contents.sni(bytes(wrong[:keep]))
    assert name in (contents.MORE, contents.NONE) or contents._NAME.fullmatch(name.encode())


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.randoms()
)
def test_segments_in_any_order_are_one_stream(sizes: list[int], start: int, random: Any) -> None:
    data = bytes(range(sum(sizes) % 256)) * 2
    parts: dict[int, bytes] = {}
    at = 0
    for size in sizes:
        parts[(start + at) % 2**32] = data[at : at + size]
        at += size
    order = list(parts.items())
    random.shuffle(order)
    whole = data[: min(at, len(data))]
    assert joined(dict(order)) == whole


def test_a_stream_whose_numbers_wrap() -> None:
    assert joined({2**32 - 2: b"ab", 0: b"cd", 2: b"e"}) == b"abcde"


SEEDS = (HELLO, REQUEST, QUERY, len(QUERY).to_bytes(2, "big") + QUERY)


@given(seed=st.sampled_from(SEEDS), random=st.randoms(use_true_random=False))
def test_what_almost_is_one(seed: bytes, random: Any) -> None:
    """Bytes changed, cut out, put in and doubled: each parser gives a host name, MORE or NONE."""
    data = bytearray(seed)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(data) + 1)
        change = random.randrange(4)
        if change == 0 and at < len(data):
            data[at] = random.randrange(256)
        elif change == 1:
            del data[at : at + random.randint(1, 20)]
        elif change == 2:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.randint(1, 20)))
        else:
            data[at:at] = data[random.randrange(len(data) + 1) :][:60]
    for parser in (contents.sni, contents.http_host, contents.dns_name):
        name = parser(bytes(data))
        assert name in (contents.MORE, contents.NONE) or contents._NAME.fullmatch(name.encode())
