"""Ports for programs that have to be told theirs before they can bind it."""

import random
import socket

HOST = "127.0.0.1"
_RANGE = range(10_000, 32_768)
_TRIES = 100


def free_port() -> int:
    """Return a TCP port of the loopback address that nothing uses at this moment.

    It lies below the ports that systems give to outgoing connections (from 32768 on Linux, from
    49152 elsewhere): one of those might be taken before the program that is told of it binds it.
    """
    chosen = random.SystemRandom().sample(_RANGE, _TRIES)
    return next((port for port in chosen if not is_taken(port)), 0) or _any_port()


def is_taken(port: int) -> bool:
    """Say whether another program holds a port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections may linger
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


def _any_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port
