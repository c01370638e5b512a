"""The routes that one node answers for all, without a slot: ``/api/me``, web search and the like."""

import secrets
from typing import Any

from sollol.api.answer import Answer
from sollol.api.body import BodyReader
from sollol.api.ollama_arrival import OllamaArrival
from sollol.api.request import Headers, Request
from sollol.api.serving import Serving, shown_id, target_of
from sollol.errors import ConnectFailed, NoNodeAvailable, RouteNotFound
from sollol.gateway.body import Body
from sollol.gateway.designated import designate
from sollol.gateway.failover import RULES, classify
from sollol.gateway.fleet import headers_for
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Downstream, relay
from sollol.nodes.registry import Node
from sollol.upstream.http import UpstreamRequest
from sollol.wire.bodies import JSON_UTF8
from sollol.wire.designated import NO_CLOUD, STATUS, DesignatedRoute, designated_route

PASSED_HEADERS = (b"accept", b"content-type", b"traceparent", b"tracestate", b"user-agent", b"via")


class Arrival(OllamaArrival):
    """A request as it came in, and what became of it."""

    route: DesignatedRoute

    @property
    def task(self) -> str:
        """Its label in the metrics."""
        return "cloud"

    @property
    def node(self) -> str:
        """The node that was asked."""
        return self.outcome.node_id

    def told(self) -> Headers:
        """Return the headers that tell which node was asked."""
        node = self.outcome.node_id
        return [(b"x-sollol-node", node.encode())] if node else []

    def noted(self) -> dict[str, Any]:
        """Return the fields of its log line; the path could hold a key."""
        return {"path": self.route.path, "node": self.outcome.node_id}


class Designated:
    """Serves these requests."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._serving = Serving(gateway)
        self._bodies = BodyReader.of(gateway)

    @staticmethod
    def serves(method: str, path: str) -> bool:
        """Whether a request is one of these."""
        route = designated_route(path)
        return route is not None and route.method == method

    async def serve(self, request: Request, answer: Answer) -> None:
        """Answer one request."""
        route = designated_route(request.path)
        assert route is not None
        arrival = Arrival(
            shown_id=shown_id(request) or secrets.token_hex(6),
            arrived_at=self._gateway.clock(),
            route=route,
        )
        await self._serving.run(arrival, request, answer, self._serve)

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        with await self._bodies.read(request) as body:
            try:
                node = self._node(arrival.route)
            except (NoNodeAvailable, RouteNotFound):
                if arrival.route is not STATUS:
                    raise
                downstream.answer(200, [(b"content-type", JSON_UTF8)], NO_CLOUD)
                return
            arrival.outcome.node_id = node.view.id
            await self._ask(node, _request(node, request, body), downstream)

    def _node(self, route: DesignatedRoute) -> Node:
        registry = self._gateway.registry
        view = designate(route, registry.views(), self._gateway.settings.fleet.cloud_node)
        node = registry.find(view.id)
        assert node is not None  # its view was here in this very tick
        return node

    async def _ask(self, node: Node, request: UpstreamRequest, downstream: Downstream) -> None:
        try:
            upstream = await node.connections.send(request)
        except ConnectFailed as error:
            blame = RULES[classify(error)].blame
            self._gateway.registry.request_failed(node.view.id, "", blame, str(error))
            raise
        try:
            await relay(upstream, downstream)
        finally:
            upstream.close()


def _request(node: Node, request: Request, body: Body) -> UpstreamRequest:
    passed = [(n, request.headers[n]) for n in PASSED_HEADERS if n in request.headers]
    headers, target = headers_for(node, passed), target_of(request)
    if not len(body):
        return UpstreamRequest(request.method, target, headers)
    return UpstreamRequest(request.method, target, headers, body.upstream(), len(body))
