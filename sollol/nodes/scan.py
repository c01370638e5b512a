"""Tries every address of networks that the settings opted in."""

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterator

from sollol.nodes.addresses import url_of
from sollol.nodes.sources import Candidate, Finding
from sollol.types import Source

AT_ONCE = 64
"""Addresses tried at the same time."""
CONNECT_S = 0.5
"""Longest wait for one of them; in one's own network an answer takes milliseconds."""
WHOLE_SCAN_S = 240.0
"""Longest scan; what was found until then counts."""


class ScanFinder:
    """A port scan of private networks (``settings/address.py`` refuses others), with pauses."""

    source = Source.SCAN

    def __init__(
        self, networks: tuple[str, ...], ports: tuple[int, ...], interval_s: float
    ) -> None:
        self.interval_s = interval_s
        self._networks = networks
        self._ports = ports

    async def find(self) -> Finding:
        """Return every address and port that takes a connection."""
        found: list[Candidate] = []
        targets = self._targets()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WHOLE_SCAN_S), asyncio.TaskGroup() as workers:
                for _ in range(AT_ONCE):
                    workers.create_task(_try_all(targets, found))
        return Finding(tuple(found))

    async def close(self) -> None:
        """Do nothing: it holds nothing."""

    def _targets(self) -> Iterator[tuple[str, int]]:
        for network in self._networks:
            for address in ipaddress.ip_network(network).hosts():
                for port in self._ports:
                    yield str(address), port


async def _try_all(targets: Iterator[tuple[str, int]], found: list[Candidate]) -> None:
    """Take the next target until there is none; several workers share ``targets``."""
    for address, port in targets:
        if await _takes_connections(address, port):
            found.append(Candidate(url_of(address, port), Source.SCAN))


async def _takes_connections(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, address, port
            )
    except OSError:
        return False
    transport.abort()
    return True
