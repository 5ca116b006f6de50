# SPDX-License-Identifier: Apache-2.0
"""A packet function of one's own, in Python and in C: it drops what is to UDP port 9."""

import shlex
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest

from hostsim import Host

HOST = """
[host]
name = "own"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
[[vm]]
name = "mine"
nf = "NF"
[[route]]
match = { proto = "udp" }
through = ["mine"]
"""
IN_PYTHON = """
from hostsim.nf import Port


def to_nine(port: Port) -> None:
    for batch in port:
        for index, packet in enumerate(batch):
            if packet[12:14] == b"\\x08\\0" and packet[23] == 17 and packet[36:38] == b"\\0\\x09":
                batch.drop(index)
        port.send(batch)
"""
IN_C = """
#include <hostsim/nf.h>

HS_NF_PLUGIN;

uint32_t hs_nf(void *state, struct hs_port *port, struct hs_packet *batch, uint32_t n) {
    uint32_t on = 0;
    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = hs_packet_data(port, &batch[i]);
        struct hs_packet packet = batch[i];
        if (packet.len >= 42 && p[12] == 8 && p[13] == 0 && p[23] == 17 && p[36] == 0 && p[37] == 9)
            continue;
        batch[i] = batch[on];
        batch[on++] = packet;
    }
    return on;
}
"""
TELL = """
import socket, sys
for port in (9, 10):
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"to %d" % port, ("198.18.0.20", port))
"""


def arrives(file: Path) -> None:
    """A datagram to port 10 arrives, and one to port 9, which was sent first, does not."""
    with Host(file) as host:
        udp = partial(host["server"].socket, socket.AF_INET, socket.SOCK_DGRAM)
        with udp() as nine, udp() as ten:
            nine.bind(("", 9))
            ten.bind(("", 10))
            ten.settimeout(10)
            host["client"].run("python3", "-c", TELL, check=True)
            assert ten.recv(100) == b"to 10"
            nine.setblocking(False)
            with pytest.raises(BlockingIOError):
                nine.recv(100)


def test_in_python(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(IN_PYTHON)
    (tmp_path / "own.toml").write_text(HOST.replace("NF", "mine:to_nine"))
    arrives(tmp_path / "own.toml")


def test_in_c(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text(IN_C)
    flags = subprocess.run(("hostsim", "nf", "--cflags"), stdout=subprocess.PIPE, check=True)
    words = ("cc", "-O2", "-shared", "-fPIC", *shlex.split(flags.stdout.decode()))
    subprocess.run((*words, "-o", tmp_path / "mine.so", tmp_path / "mine.c"), check=True)
    (tmp_path / "own.toml").write_text(HOST.replace("NF", "./mine.so"))
    arrives(tmp_path / "own.toml")
