"""Which gateways ``Via`` names."""

import pytest

from sollol.wire.hops import gateways_in, via_of


@pytest.mark.parametrize(
    ("via", "found"),
    [
        (b"", set()),
        (b"1.1 fred", set()),
        (b"1.1 sollol-0a", {"sollol-0a"}),
        (
            b"1.0 fred, HTTP/1.1 sollol-0a (SOLLOL),1.1 p.example.net:80 , 1.1  sollol-1b",
            {"sollol-0a", "sollol-1b"},
        ),
        (b"sollol-0a", set()),
        (b"1.1 not-sollol-0a", set()),
    ],
)
def test_gateways_are_found_among_other_proxies(via: bytes, found: set[str]) -> None:
    assert gateways_in(via) == found


def test_a_gateway_finds_itself() -> None:
    assert gateways_in(via_of("sollol-0a")) == {"sollol-0a"}
    assert via_of("") == b""
