"""Ports that are chosen before a program binds them."""

import socket

import pytest

from sollol import ports
from sollol.ports import HOST, free_port, is_taken


def test_a_chosen_port_can_be_bound_and_is_none_of_an_outgoing_connection() -> None:
    port = free_port()
    assert port < 32_768
    assert not is_taken(port)
    with socket.create_server((HOST, port)):
        assert is_taken(port)


def test_when_all_those_are_taken_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as holder:
        taken = holder.getsockname()[1]
        monkeypatch.setattr(ports, "_RANGE", range(taken, taken + 1))
        monkeypatch.setattr(ports, "_TRIES", 1)
        assert free_port() not in (0, taken)
