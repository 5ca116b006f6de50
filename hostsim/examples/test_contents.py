# SPDX-License-Identifier: Apache-2.0
"""Routing by contents: what a client asks a web server for decides the way of its connection."""

import pytest

from hostsim import Host

HOST = """
[host]
name = "contents"
[[endpoint]]
name = "client"
address = "198.18.0.10/24"
[[endpoint]]
name = "server"
address = "198.18.0.20/24"
run = "python3 -m http.server 80"
[[vm]]
name = "ids"
[[route]]
match = { proto = "tcp", dport = 80, http_host = "*.secret.example" }
through = ["ids"]
"""
pytestmark = pytest.mark.hostsim(HOST)


def ask(host: Host, name: str) -> None:
    words = ("curl", "-sS", "-m", "10", "-o", "/dev/null", "-H", f"Host: {name}")
    host["server"].wait_for_port(80)
    host["client"].run(*words, "http://198.18.0.20/", check=True)


def test_only_some_names_pass_the_detector(hostsim_host: Host) -> None:
    ask(hostsim_host, "www.public.example")
    assert all(flow.route is None for flow in hostsim_host.flows("*>198.18.0.20:80"))
    ask(hostsim_host, "vault.secret.example")
    assert any(flow.route == 0 for flow in hostsim_host.flows("*>198.18.0.20:80"))
