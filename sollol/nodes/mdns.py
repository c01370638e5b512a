"""Nodes that announce themselves on the local network (multicast DNS, DNS-SD)."""

import asyncio
import ipaddress
from typing import TYPE_CHECKING

from sollol.nodes.addresses import url_of
from sollol.nodes.sources import Candidate, Finding
from sollol.types import Source

if TYPE_CHECKING:
    from zeroconf import Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

SERVICES = ["_ollama._tcp.local.", "_sollol-node._tcp.local."]
FIRST_LOOK_S = 2.0
"""How long the first look waits for announcements."""
ASK_MS = 1500
"""Longest wait for a service's address and port."""
MAX_SERVICES = 1024
"""Anyone on the network can announce; this many are remembered."""


class MdnsFinder:
    """Listens for as long as it is used; each look returns what has been heard."""

    source = Source.MDNS

    def __init__(self, interval_s: float, interfaces: list[str] | None = None) -> None:
        self.interval_s = interval_s
        self._interfaces = interfaces
        self._heard: dict[tuple[str, str], None] = {}
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None

    async def find(self) -> Finding:
        """Return the first usable address of each service that was announced."""
        if self._zeroconf is None:
            self._listen()
            await asyncio.sleep(FIRST_LOOK_S)
        urls = await asyncio.gather(*(self._url(*service) for service in tuple(self._heard)))
        return Finding(tuple(Candidate(url, Source.MDNS) for url in urls if url))

    async def close(self) -> None:
        """Stop listening."""
        if self._browser is not None:
            await self._browser.async_cancel()
        if self._zeroconf is not None:
            await self._zeroconf.async_close()
        self._browser = self._zeroconf = None

    def _listen(self) -> None:
        from zeroconf import InterfaceChoice
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

        self._zeroconf = AsyncZeroconf(interfaces=self._interfaces or InterfaceChoice.All)
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, SERVICES, handlers=[self._on_change]
        )

    def _on_change(
        self, zeroconf: "Zeroconf", service_type: str, name: str, state_change: object
    ) -> None:
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._heard.pop((service_type, name), None)
        elif len(self._heard) < MAX_SERVICES:
            self._heard[service_type, name] = None

    async def _url(self, service_type: str, name: str) -> str | None:
        from zeroconf.asyncio import AsyncServiceInfo

        if self._zeroconf is None:
            return None
        info = AsyncServiceInfo(service_type, name)
        if not await info.async_request(self._zeroconf.zeroconf, ASK_MS) or not info.port:
            return None
        address = first_usable(info.parsed_addresses())
        return url_of(address, info.port) if address else None


def first_usable(addresses: list[str]) -> str | None:
    """Return an IPv4 address if there is one, else one of IPv6 that every interface can use."""
    parsed = [ipaddress.ip_address(address) for address in addresses]
    usable = [a for a in parsed if a.version == 4 or not a.is_link_local]
    return str(min(usable, key=lambda a: a.version)) if usable else None
