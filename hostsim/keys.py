# SPDX-License-Identifier: Apache-2.0
"""The key of a flow: its tuple as text, and back. Pure.

A key is `proto:source>destination`, as in `tcp:198.18.0.10:40000>198.18.0.20:80`. IPv6 addresses
are in brackets. ICMP echo has its identifier for a port; a protocol without ports has none. A VLAN
tag is written behind the protocol: `tcp@7:...`. A frame that is not IP is
`0xETHERTYPE:source>destination`, with MAC addresses.
"""

import re
from ipaddress import ip_address

from cext.switch.records import Tuple
from hostsim.errors import UsageError
from hostsim.names import ETHERTYPE_MIN, HAS_PORTS, ICMP, PROTOCOL_NAMES, PROTOCOLS, VLAN_MAX

MAC = "((?:[0-9a-f]{2}:){5}[0-9a-f]{2})"
FRAME = re.compile(f"0x([0-9a-f]{{1,4}})(?:@([0-9]{{1,4}}))?:{MAC}>{MAC}", re.IGNORECASE)


def key_text(flow: Tuple) -> str:
    """The flow's key."""
    proto = PROTOCOL_NAMES.get(flow.proto, str(flow.proto))
    vlan = f"@{flow.vlan}" if flow.vlan else ""
    if not flow.family:
        return f"0x{flow.sport:04x}{vlan}:{flow.src.hex(':')}>{flow.dst.hex(':')}"
    source, target = _host(flow.src), _host(flow.dst)
    if flow.proto in HAS_PORTS or (flow.proto in ICMP and flow.sport):
        source, target = f"{source}:{flow.sport}", f"{target}:{flow.dport}"
    return f"{proto}{vlan}:{source}>{target}"


def parse_key(text: str) -> Tuple:
    """The flow of a key. Raises UsageError."""
    try:
        if text.startswith("0x"):
            return _parse_frame(text)
        proto_text, rest = text.split(":", 1)
        proto_text, _, vlan = proto_text.partition("@")
        proto = PROTOCOLS[proto_text] if proto_text in PROTOCOLS else _number(proto_text)
        source, target = rest.split(">")
        src, sport = _parse_host(source, proto)
        dst, dport = _parse_host(target, proto)
        if len(src) != len(dst) or proto > 255 or (proto in ICMP and sport != dport):
            raise ValueError(text)
        tag = _number(vlan or "0", VLAN_MAX)
        return Tuple(4 if len(src) == 4 else 6, proto, src, sport, dst, dport, tag)
    except ValueError:
        raise UsageError(
            f"flow {text!r}",
            "is not a flow",
            "write it as tcp:198.18.0.10:40000>198.18.0.20:80, or udp:[fd00::1]:5>[fd00::2]:53",
        ) from None


def _number(text: str, most: int = 0xFFFF) -> int:
    """Digits and nothing else."""
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ValueError(text)
    return int(text)


def _parse_frame(text: str) -> Tuple:
    """The flow of a key that is not IP: an ethertype between two MAC addresses."""
    found = FRAME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    kind, vlan, src, dst = found.groups()
    ethertype, tag = int(kind, 16), int(vlan or 0)
    if ethertype < ETHERTYPE_MIN or tag > VLAN_MAX:
        raise ValueError(text)
    packed = (bytes.fromhex(address.replace(":", "")) for address in (src, dst))
    return Tuple(0, 0, next(packed), ethertype, next(packed), 0, tag)


def _host(address: bytes) -> str:
    text = str(ip_address(address))
    return f"[{text}]" if len(address) == 16 else text


def _parse_host(text: str, proto: int) -> tuple[bytes, int]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if proto in HAS_PORTS and not port:
        raise ValueError(text)
    if "%" in host:  # a scope is of one machine, not of a packet
        raise ValueError(text)
    return ip_address(host).packed, _number(port or "0")
