"""Whose fault a failed attempt was."""

import errno

import pytest

from sollol.errors import (
    ClientDisconnected,
    ConnectFailed,
    MissingOnNode,
    ProtocolViolation,
    SollolError,
    UpstreamCut,
    UpstreamTimeout,
)
from sollol.gateway.failover import is_fault_of_node


def connect_failed(number: int) -> ConnectFailed:
    error = ConnectFailed("no connection")
    error.__cause__ = OSError(number, "")
    return error


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (ConnectFailed("removed"), True),
        (connect_failed(errno.ECONNREFUSED), True),
        (connect_failed(errno.EMFILE), False),
        (ProtocolViolation("x"), True),
        (UpstreamCut("x"), True),
        (UpstreamTimeout("x"), True),
        (MissingOnNode("x", b"", b"", lacks_route=True), False),
        (ClientDisconnected("x"), False),
    ],
)
def test_what_counts_against_a_node(error: SollolError, is_fault: bool) -> None:
    assert is_fault_of_node(error) is is_fault
