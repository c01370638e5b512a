"""Where the nodes are, by address: the names in their URLs looked up."""

import asyncio

from sollol.nodes.addresses import Resolve, find_place
from sollol.nodes.duplicates import Place, is_same_place
from sollol.nodes.registry import Node, Registry

LOOK_UPS_AT_ONCE = 16


class Places:
    """Remembers look-ups until it is told to forget them."""

    def __init__(self, registry: Registry, look_up: Resolve) -> None:
        self._registry = registry
        self.look_up = look_up
        self._look_ups = asyncio.Semaphore(LOOK_UPS_AT_ONCE)
        self._known: dict[str, Place] = {}

    def forget(self) -> None:
        """Look names up anew from now on: they may stand for other addresses."""
        self._known = {}

    async def find(self, url: str) -> Place:
        """Return where a base URL leads."""
        return await find_place(url, self.look_up)

    async def of_nodes(self) -> dict[str, Place]:
        """Return where each node is."""

        async def place(node: Node) -> Place:
            url = node.settings.url
            if url not in self._known:
                async with self._look_ups:
                    self._known[url] = await self.find(url)
            return self._known[url]

        nodes = self._registry.nodes()
        places = await asyncio.gather(*(place(node) for node in nodes))
        return dict(zip((node.view.id for node in nodes), places, strict=True))

    async def node_at(self, place: Place) -> str | None:
        """Return the node that is at a place already, if there is one."""
        for node_id, known in (await self.of_nodes()).items():
            if is_same_place(place, known):
                return node_id
        return None
