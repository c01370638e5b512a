"""Requests that change nodes: which nodes are asked, all at once, and what is known afterwards.

Progress streams are in ``fleet_stream.py``, blobs in ``blobs.py``.
"""

import asyncio
import random
from collections.abc import Sequence

import msgspec

from sollol.errors import SollolError
from sollol.gateway import targets
from sollol.gateway.body import Body
from sollol.gateway.targets import Policy
from sollol.gateway.verdict import NodeAnswer
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Node, Registry
from sollol.types import NodeView
from sollol.upstream.http import UpstreamRequest
from sollol.wire.manage import ManageBody, ManageKind

HOLD_BYTES = 1024 * 1024
"""The longest answer of a node to a request that changes it, progress aside."""

NO_BODY = Body(b"")

Nodes = Sequence[Node]
Headers = list[tuple[bytes, bytes]]


class Ask(msgspec.Struct, frozen=True):
    """What every chosen node is sent. ``headers`` are those of the caller's that a node may see.

    ``first_byte_s`` is how long a node may be silent first, where that is not ``stall_timeout_s``.
    """

    method: str
    path: str
    headers: Headers
    body: Body = NO_BODY
    first_byte_s: float | None = None

    def request(self, node: Node) -> UpstreamRequest:
        """Return it as one node gets it."""
        headers = headers_for(node, self.headers)
        return UpstreamRequest(
            self.method,
            self.path,
            headers,
            self.body.upstream(),
            len(self.body) or None,
            first_byte_s=self.first_byte_s,
        )


def headers_for(node: Node, headers: Headers) -> Headers:
    """Return the headers for a node, with the key it asks for."""
    if node.api_key is None:
        return headers
    return [*headers, (b"authorization", b"Bearer " + node.api_key.encode())]


class Fleet:
    """Asks several nodes at once; holds no state of its own."""

    def __init__(
        self, registry: Registry, prober: Prober, policy: Policy, rng: random.Random
    ) -> None:
        self.policy = policy
        self.rng = rng
        self._registry = registry
        self._prober = prober

    def views(self) -> Sequence[NodeView]:
        """What is known of all nodes."""
        return self._registry.views()

    def choose(self, kind: ManageKind, body: ManageBody, wanted: str | None) -> Nodes:
        """Return the nodes that a request is for; ``wanted`` is the caller's own choice.

        Raises:
            SollolError: there is none.
        """
        views = self.views()
        if wanted is None:
            return self.nodes(targets.choose(kind, body, views, self.policy, self.rng))
        return self.nodes(targets.choose_named(kind, body, targets.named(views, wanted)))

    def nodes(self, views: Sequence[NodeView]) -> Nodes:
        """Return the nodes that the views are of."""
        found = (self._registry.find(view.id) for view in views)
        return [node for node in found if node is not None]

    async def ask(self, ask: Ask, nodes: Nodes) -> Sequence[NodeAnswer]:
        """Return what each node answers; all are asked at once, and all are waited for."""
        async with asyncio.TaskGroup() as asking:
            tasks = [asking.create_task(_answer_of(node, ask)) for node in nodes]
        return [task.result() for task in tasks]

    async def refresh(self, nodes: Nodes) -> None:
        """Look at nodes that were changed, so that the next request sees them as they are."""
        async with asyncio.TaskGroup() as probes:
            for node in nodes:
                probes.create_task(self._prober.probe(node))


async def _answer_of(node: Node, ask: Ask) -> NodeAnswer:
    try:
        upstream = await node.management.send(ask.request(node))
        try:
            body = await upstream.read_all(HOLD_BYTES)
        finally:
            upstream.close()
    except SollolError as error:
        return NodeAnswer(node.view.id, error=error)
    return NodeAnswer(node.view.id, upstream.status, upstream.content_type, body)
