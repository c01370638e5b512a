"""Which gateways a request has come through: ``Via`` (RFC 9110, section 7.6.3); pure.

A gateway goes by a pseudonym there, which it makes up when it starts. Other proxies may be named too.
"""

import re

VIA = b"via"

_ID = re.compile(rb"(?:^|,)\s*[^\s,]+\s+(sollol-[0-9a-f]+)")


def via_of(gateway_id: str) -> bytes:
    """Return what a gateway adds to ``Via``; nothing without an id."""
    return b"1.1 " + gateway_id.encode() if gateway_id else b""


def gateways_in(via: bytes) -> frozenset[str]:
    """Return the ids of the gateways that ``Via`` names."""
    return frozenset(found.decode() for found in _ID.findall(via))
