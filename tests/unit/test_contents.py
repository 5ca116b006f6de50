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


NO_NAME = (contents.MORE, contents.NONE, contents.UNSURE)
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
    size = (1500).to_bytes(2, "big")  # padded (RFC 7830), and not whole yet
    assert contents.dns_name(size + QUERY + bytes(900), tcp=True) == "www.example.org"
    assert contents.dns_name(size + QUERY[:20], tcp=True) == contents.MORE


HOST = b"Host: a.test\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST, "a.test"),
        (b"PROPFIND / HTTP/1.1\r\n" + HOST, "a.test"),
        (b"get  /a b  HTTP/1.0 \n" + HOST, "a.test"),
        (b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n", "a.test"),
        (b"GET http://a.test/b HTTP/1.1\r\n\r\n", "a.test"),
        (b"GET http://u:p@A.test:80?b HTTP/1.1\r\n" + HOST, "a.test"),
        (b"GET http://b.test/ HTTP/1.1\r\n" + HOST, contents.UNSURE),
        (b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "a.test"),
        (b"CONNECT b.test:443 HTTP/1.1\r\n" + HOST, contents.UNSURE),
        (b"GET /?u=http://b.test/ HTTP/1.1\r\n" + HOST, "a.test"),
        (b"GET / HTTP/1.9\r\n" + HOST, contents.UNSURE),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", contents.UNSURE),
        (b"GET / HTTP/1.1\r\nHost: -.a.test\r\n\r\n", contents.UNSURE),
        (b"GET / HTTP/1.1\r\nHost:\r\n", contents.MORE),
        (b"GET / HTTP/1.1\r\nHost:\r\n a.test\r\n\r\n", contents.UNSURE),
        (b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", contents.UNSURE),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", contents.NONE),
        (b"GET /\r\n", contents.NONE),
        (b"EHLO a.test at home\r\n", contents.NONE),
        (b"\x00GET / HTTP/1.1\r\n" + HOST, contents.NONE),
    ],
)
def test_what_some_server_takes_for_a_request(request_: bytes, name: str) -> None:
    assert contents.http_host(request_) == name
    at = request_.index(b"\n", len(request_) // 2)
    assert contents.http_host(request_[:at]) in (contents.MORE, name)


@pytest.mark.parametrize(
    "before", [b"\x15\x03\x01\0\2\1\0", b"\x14\x03\x03\0\1\1", b"\x16\3\1\0\0"]
)
def test_records_before_a_hello_that_some_server_passes_over(before: bytes) -> None:
    assert contents.sni(before + HELLO) == contents.UNSURE


def test_two_hosts_of_one_request() -> None:
    """Some servers take the first, some the last."""
    two = REQUEST.replace(b"\r\n\r\n", b"\r\nHost: %s\r\n\r\n")
    assert contents.http_host(two % b"other.net") == contents.UNSURE
    assert contents.http_host(two % b"EXAMPLE.com") == "example.com"


def test_a_server_name_that_is_no_host_name() -> None:
    """A server that has names for all of a domain takes it."""
    assert contents.sni(HELLO.replace(b"www.Example", b"-w!.Example")) == contents.UNSURE


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        (b"\3www\xc0\x04", 1, contents.UNSURE),  # the root, in the header
        (b"\3www\xc0\x04", 9, contents.NONE),  # of no class: not DNS
        (b"\5a!b c\3org\0", 1, contents.UNSURE),
        (b"\5a!b c\3org\0", 9, contents.NONE),
        (b"\0", 1, contents.NONE),
    ],
)
def test_a_question_that_some_server_reads(name: bytes, kind: int, found: str) -> None:
    assert contents.dns_name(QUERY[:12] + name + bytes([0, 1, 0, kind])) == found


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (2, b"\x81"),  # an answer
        (2, b"\x28"),  # an update (RFC 2136), whose first section is a zone
        (5, b"\x00"),  # no question
        (16, b"\xc0\x0c"),  # a label that is elsewhere
        (16, b"\x40"),  # a label of another kind
    ],
    ids=["answer", "update", "no-question", "pointer", "extended"],
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
    assert name in NO_NAME or contents._NAME.fullmatch(name.encode())


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


def test_parts_that_say_different_things_of_one_place() -> None:
    assert joined({7: b"abcd", 9: b"cdef", 10: b"d"}, 7) == b"abcdef"
    assert joined({7: b"abcd", 9: b"cXef"}, 7) is None


SEEDS = (HELLO, REQUEST, QUERY, len(QUERY).to_bytes(2, "big") + QUERY)


@given(seed=st.sampled_from(SEEDS), random=st.randoms(use_true_random=False))
def test_what_almost_is_one(seed: bytes, random: Any) -> None:
    """Bytes changed, cut out, put in and doubled: a parser gives a host name or a word for none."""
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
        assert name in NO_NAME or contents._NAME.fullmatch(name.encode())
