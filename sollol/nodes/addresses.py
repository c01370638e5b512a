"""Names and addresses: what a name stands for, and whether an address is this machine's."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from sollol.nodes.duplicates import Place

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]
"""Returns the addresses of a host name; raises OSError when they cannot be had."""

RESOLVE_S = 5.0
"""Longest wait for an answer about a name."""


async def resolve(host: str, port: int) -> frozenset[str]:
    """Ask the system for the addresses of a name.

    Raises:
        OSError: the name is unknown, or there is no answer in time.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(RESOLVE_S):  # a TimeoutError is an OSError
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(str(address[0]) for *_, address in found)


async def find_place(url: str, look_up: Resolve) -> Place:
    """Return where a base URL leads; without addresses while its name cannot be looked up."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    try:
        addresses = frozenset({_plain(host)})
    except ValueError:
        try:
            addresses = await look_up(host, port)
        except OSError:
            addresses = frozenset()
    is_here = bool(addresses) and all(is_own_address(address) for address in addresses)
    return Place(addresses, port, parts.path, is_here)


def _plain(address: str) -> str:
    """Return an address in its shortest form; ``::ffff:127.0.0.1`` is one of IPv4."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)


def url_of(address: str, port: int) -> str:
    """Return the base URL of a server at an address."""
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def is_own_address(address: str) -> bool:
    """Whether an address is one of this machine: only those can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
