"""Nodes that join, change and leave while the gateway runs.

The registry owns the nodes; this is the way in and out that loses no request: a node that leaves
gets nothing new, and what is on it gets time to finish.
"""

import asyncio
from typing import Any

import structlog

from sollol.errors import NodeConflict, NodeNotFound
from sollol.gateway.admission import Admission
from sollol.gateway.reload import plan_nodes
from sollol.nodes.addresses import url_of
from sollol.nodes.duplicates import Place
from sollol.nodes.places import Places
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.settings import EMBEDDED_ID, NodeSettings, ServerSettings
from sollol.settings.address import ALL_ADDRESSES, is_same_server
from sollol.types import Source

log = structlog.get_logger()


class Membership:
    """Owner of the removals under way."""

    def __init__(
        self,
        registry: Registry,
        prober: Prober,
        admission: Admission,
        places: Places,
        server: ServerSettings,
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._admission = admission
        self._places = places
        self._server = server
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removals: dict[str, asyncio.Task[int]] = {}
        self._limits: dict[str, asyncio.Timeout] = {}
        self._adding = asyncio.Lock()
        self._listed: tuple[NodeSettings, ...] = ()
        """What the settings listed when they were read last."""

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, settings: NodeSettings, source: Source) -> Node:
        """Register a node and ask it how it is.

        Raises:
            NodeConflict: the id or the server is taken, or the server is this gateway. Settings
                may list a server twice: that is told, not refused.
        """
        if settings.id == EMBEDDED_ID:
            raise NodeConflict(f"{EMBEDDED_ID} is the name of the gateway's own node")
        if is_same_server(settings.url, self._server.host, self._server.port):
            raise NodeConflict(f"{settings.url} is the address of this gateway itself")
        if source is Source.SETTINGS:
            node = self._registry.add(settings, source)
        else:
            async with self._adding:  # one at a time: two may have names of one server
                await self._refuse_known(settings)
                node = self._registry.add(settings, source)
        log.info("node_added", node=node.view.id, url=settings.url, source=source)
        await self._prober.probe(node)
        return node

    def find(self, node_id: str) -> Node:
        """Return the node with this id.

        Raises:
            NodeNotFound: there is none.
        """
        node = self._registry.find(node_id)
        if node is None:
            known = ", ".join(sorted(view.id for view in self._registry.views())) or "none"
            raise NodeNotFound(f"no node is called {node_id}; there are: {known}")
        return node

    def change(self, node_id: str, changes: dict[str, object]) -> Node:
        """Give a node other values for some of its settings.

        Raises:
            NodeNotFound: there is no such node.
            NodeConflict: it is being removed.
        """
        node = self.find(node_id)
        if node_id in self._removals:
            raise NodeConflict(f"node {node_id} is being removed")
        self._registry.change(node, node.settings.model_copy(update=changes))
        return node

    async def remove(self, node_id: str, drain_s: float) -> int:
        """Let a node finish, forget it, and return how many requests were cut off.

        It goes on when the caller is cancelled. Called again, the shorter limit counts.

        Raises:
            NodeNotFound: there is no such node.
            NodeConflict: it is the gateway's own.
        """
        node = self.find(node_id)
        if node.source is Source.EMBEDDED:
            text = f"{node_id} is started and stopped by the gateway; see embedded.enabled"
            raise NodeConflict(text)
        if node.source is Source.SHARD:
            text = f"{node_id} is started and stopped by the gateway; see: sollol shard stop"
            raise NodeConflict(text)
        return await asyncio.shield(self._begin_removal(node, drain_s, "asked for"))

    def let_go(self, node_id: str, reason: str) -> None:
        """Begin to remove a node, with the time that requests get at a shutdown."""
        node = self._registry.find(node_id)
        if node is not None and node_id not in self._removals:
            self._begin_removal(node, self._server.shutdown_grace_s, reason)

    def follow(self, wanted: tuple[NodeSettings, ...]) -> None:
        """Begin to make the listed nodes those that the settings list."""
        current = {
            node.view.id: (node.settings, node.source)
            for node in self._registry.nodes()
            if node.view.id not in self._removals
        }
        self._listed = wanted
        plan = plan_nodes(current, wanted)
        for settings in plan.changed:
            self._registry.change(self.find(settings.id), settings, Source.SETTINGS)
            log.info("node_changed", node=settings.id)
        for node_id in plan.removed:
            self.let_go(node_id, "the settings list it no more")
        for settings in plan.added:
            self._keep(asyncio.create_task(self._add_in_place(settings)))

    async def _add_in_place(self, settings: NodeSettings) -> None:
        """Add a node once those that have its id or URL are gone, if it is listed still."""
        leaving = [
            self._removals[node.view.id]
            for node in self._registry.nodes()
            if node.view.id in self._removals
            and (node.view.id == settings.id or node.settings.url == settings.url)
        ]
        if leaving:
            await asyncio.wait(leaving)
        if not any(listed is settings for listed in self._listed):
            return
        try:
            await self.add(settings, Source.SETTINGS)
        except NodeConflict as error:
            log.error("node_not_added", node=settings.id, reason=str(error))

    async def _refuse_known(self, settings: NodeSettings) -> None:
        place = await self._places.find(settings.url)
        if self._is_own(place):
            raise NodeConflict(f"{settings.url} is the address of this gateway itself")
        there = await self._places.node_at(place)
        if there is not None and settings.id != there:
            raise NodeConflict(f"the server at {settings.url} is node {there} already")

    def _is_own(self, place: Place) -> bool:
        """Whether the gateway listens at a place, under whatever name."""
        host, port = self._server.host, self._server.port
        if place.is_here and place.port == port and host in ALL_ADDRESSES:
            return True
        urls = (url_of(address, place.port) for address in place.addresses)
        return any(is_same_server(url, host, port) for url in urls)

    def _begin_removal(self, node: Node, drain_s: float, reason: str) -> asyncio.Task[int]:
        node_id = node.view.id
        deadline = asyncio.get_running_loop().time() + drain_s
        limit = self._limits.get(node_id)
        if node_id in self._removals:
            if limit is not None and not limit.expired():
                limit.reschedule(min(deadline, limit.when() or deadline))
            return self._removals[node_id]
        log.info("node_leaving", node=node_id, reason=reason)
        self._registry.change(node, node.settings.model_copy(update={"draining": True}))
        removal = asyncio.create_task(self._drain_and_remove(node_id, deadline))
        self._removals[node_id] = removal
        self._keep(removal)
        return removal

    async def _drain_and_remove(self, node_id: str, deadline: float) -> int:
        try:
            async with asyncio.timeout_at(deadline) as limit:
                self._limits[node_id] = limit
                await self._admission.wait_idle(node_id)
        except TimeoutError:
            pass  # what is left is cut off
        finally:
            self._limits.pop(node_id, None)
        cut = self._admission.in_flight(node_id)
        try:
            await self._registry.remove(node_id)
        finally:
            del self._removals[node_id]
        log.info("node_removed", node=node_id, cut_requests=cut)
        return cut

    def _keep(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
