# SPDX-License-Identifier: Apache-2.0
"""The agent's messages: round trip, and every broken datagram refused as one."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cext._native import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from hostsim.fence import AGENT
from hostsim.kmc import wire
from hostsim.kmc.wire import Message, Type

messages = st.builds(
    Message,
    st.sampled_from(Type),
    st.integers(0, 2**32 - 1),
    st.text(max_size=1000),
)


def test_every_number_is_the_headers() -> None:
    types = ffi.typeof("enum hs_wire_type").relements
    assert {name: kind.value for name, kind in Type.__members__.items()} == {
        name.removeprefix("HS_WIRE_"): number for name, number in types.items()
    }
    assert ffi.string(lib.HS_WIRE_PATH).decode() == wire.PATH
    assert bytes([lib.HS_WIRE_MAGIC_0, lib.HS_WIRE_MAGIC_1]) == wire.MAGIC
    assert lib.HS_WIRE_VERSION == wire.VERSION
    assert lib.HS_WIRE_BODY_MAX == wire.BODY_MAX
    assert ffi.sizeof("struct hs_wire_message") == wire.SIZE_MAX


@given(messages)
def test_the_header_s_fields_lie_as_in_c(message: Message) -> None:
    header = ffi.new("struct hs_wire_header *")
    ffi.memmove(header, wire.encode(message), wire.HEADER.size)
    assert bytes(header.magic) == wire.MAGIC
    fields = (header.version, header.type, header.sequence)
    assert fields == (wire.VERSION, message.type, message.sequence)


@given(messages)
def test_round_trip(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(st.binary(max_size=2 * wire.SIZE_MAX))
def test_garbage_is_refused_or_a_message(data: bytes) -> None:
    try:
        message = wire.decode(data)
    except wire.WireError:
        return
    assert wire.encode(message) == data


@given(messages, st.data())
def test_a_cut_header_is_refused(message: Message, data: st.DataObject) -> None:
    whole = wire.encode(message)
    cut = data.draw(st.integers(0, wire.HEADER.size - 1))
    with pytest.raises(wire.WireError):
        wire.decode(whole[:cut])


def test_sizes_are_bounded() -> None:
    with pytest.raises(ValueError, match="4097"):
        wire.encode(Message(Type.FLIP, 0, "x" * 4097))
    with pytest.raises(wire.WireError):
        wire.decode(wire.encode(Message(Type.FLIP, 0, "x" * 4096)) + b"x")


@given(st.text(), st.text(), st.text())
def test_errors_fit_and_keep_their_parts(what: str, why: str, hint: str) -> None:
    message = wire.decode(wire.encode(wire.error(7, what, why, hint)))
    expected = tuple(part.replace("\0", " ")[:600] for part in (what, why, hint))
    assert wire.error_parts(message) == expected


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """The resident agent (in C), and our end of its connection."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        environment = {"HOSTSIM_ON_FOREGROUND": f"echo + >>{tmp_path}/hook", "PATH": "/bin"}
        with subprocess.Popen([AGENT, path], env=environment) as process:
            listener.settimeout(10)
            connection, _ = listener.accept()
            connection.settimeout(10)
            with connection:
                yield connection, process
            process.wait(10)


def test_the_agent_in_c_speaks_these_messages(
    agent: tuple[socket.socket, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    connection, process = agent

    def hear() -> Message:
        return wire.decode(connection.recv(wire.SIZE_MAX + 1))

    def say(kind: Type, sequence: int = 0, body: str = "") -> None:
        connection.send(wire.encode(Message(kind, sequence, body)))

    assert hear() == Message(Type.HELLO)
    say(Type.STATE, 0, "foreground")
    say(Type.STATE, 0, "background")
    say(Type.RELEASE, 77, "200")
    assert hear() == Message(Type.RELEASED, 77)
    say(Type.PING, 2**32 - 1)
    assert hear() == Message(Type.BEAT, 2**32 - 1)
    connection.send(b"no message")
    assert process.wait(10) == 1
    while not (tmp_path / "hook").exists():
        pass
