"""The data plane's keys, as Python writes them."""

import pytest

from cext.switch.maps import pack_conn, pack_tuple
from hostsim import keys


@pytest.mark.parametrize(
    "key",
    [
        "tcp:198.18.0.10:40000>198.18.0.20:80",
        "udp:198.18.0.200:1>198.18.0.3:65535",
        "udp:198.18.0.10:5>198.18.0.10:4",  # only the ports tell the ends apart
        "tcp:[fd00::1]:1>[fd00::2:1]:1",
        "icmp:198.18.0.20>198.18.0.10",
    ],
)
def test_a_connection_has_one_key(key: str) -> None:
    flow = keys.parse_key(key)
    forward, backward = pack_conn(flow), pack_conn(flow.reversed())
    assert forward[0] == backward[0]
    assert forward[1] != backward[1]
    assert forward[0] == pack_tuple(flow.reversed() if forward[1] else flow)


def test_a_flow_to_itself_is_not_turned() -> None:
    flow = keys.parse_key("udp:198.18.0.10:9>198.18.0.10:9")
    assert pack_conn(flow) == pack_conn(flow.reversed()) == (pack_tuple(flow), False)
