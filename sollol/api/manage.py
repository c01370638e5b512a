"""The routes that change nodes, over the whole fleet: pull, push, create, copy, delete and blobs.

As with inference there is no FastAPI in between: progress is streamed out and blobs are streamed in.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from sollol.api.answer import Answer
from sollol.api.body import BodyReader, Pieces
from sollol.api.ollama_arrival import OllamaArrival
from sollol.api.request import Request
from sollol.api.serving import Serving, shown_id
from sollol.errors import FleetFailed
from sollol.gateway.body import Body, aside
from sollol.gateway.fleet import Ask, Headers, Nodes
from sollol.gateway.fleet_stream import FleetStream
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Downstream
from sollol.gateway.verdict import NodeAnswer, combine
from sollol.wire.bodies import JSON_UTF8, ollama_error
from sollol.wire.gotext import quote
from sollol.wire.manage import (
    BLOBS,
    COPY,
    CREATE,
    DELETE,
    MANAGE_KINDS,
    ManageBody,
    ManageKind,
    read_digest,
    read_manage,
)
from sollol.wire.progress import failure_text

SILENCE_S = 6 * 3600.0
"""How long a node may work on what is not streamed: it says nothing before it is done."""

PASSED_HEADERS = (b"content-type", b"traceparent", b"tracestate", b"user-agent", b"via")


class Arrival(OllamaArrival):
    """A request as it came in, and what became of it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    model: str = ""
    """The model, or the digest of the blob."""
    nodes: Nodes = ()

    @property
    def task(self) -> str:
        """Its label in the metrics."""
        return "manage"

    @property
    def node(self) -> str:
        """The node that was asked, if it was one."""
        return self.node_ids if len(self.nodes) == 1 else ""

    def told(self) -> Headers:
        """Return the headers that tell which nodes were asked."""
        return [(b"x-sollol-nodes", self.node_ids.encode())] if self.nodes else []

    def noted(self) -> dict[str, Any]:
        """Return the fields of its log line."""
        return {"path": self.path, "model": self.model, "nodes": self.node_ids}

    @property
    def wanted(self) -> str | None:
        """The nodes that the caller chose."""
        given = self.headers.get(b"x-sollol-nodes")
        return None if given is None else given.decode("latin-1")

    @property
    def passed_headers(self) -> Headers:
        """The headers that nodes may see."""
        return [(name, self.headers[name]) for name in PASSED_HEADERS if name in self.headers]

    @property
    def node_ids(self) -> str:
        """The ids of the nodes that were asked."""
        return ",".join(node.view.id for node in self.nodes)


class Management:
    """Serves requests that change nodes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.clock
        self._serving = Serving(gateway)
        self._bodies = BodyReader.of(gateway)

    @staticmethod
    def serves(method: str, path: str) -> bool:
        """Whether a request is one of these."""
        kind = MANAGE_KINDS.get(path)
        return kind.method == method if kind else is_blob(path) and method in ("HEAD", "POST")

    async def serve(self, request: Request, answer: Answer) -> None:
        """Answer one request."""
        arrival = self._arrival(request)
        await self._serving.run(arrival, request, answer, self._serve)

    def _arrival(self, request: Request) -> Arrival:
        return Arrival(
            shown_id=shown_id(request) or secrets.token_hex(6),
            arrived_at=self._clock(),
            method=request.method,
            path=request.path,
            headers=request.headers,
        )

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        kind = MANAGE_KINDS.get(arrival.path)
        if kind is not None:
            with await self._bodies.read(request) as raw:
                await self._manage(arrival, kind, raw, downstream)
            return
        digest = arrival.model = read_digest(arrival.path.removeprefix(BLOBS))
        arrival.nodes = self._gateway.blobs.targets(arrival.wanted)
        if arrival.method == "HEAD":
            await self._find_blob(arrival, digest, downstream)
            return
        await self._upload_blob(arrival, digest, request, downstream)

    async def _manage(
        self, arrival: Arrival, kind: ManageKind, raw: Body, downstream: Downstream
    ) -> None:
        body = await aside(raw, _read_manage, kind, raw)
        arrival.model = body.model
        arrival.nodes = await self._nodes_for(kind, body, arrival.wanted)
        if kind in (COPY, DELETE):
            await self._change(arrival, raw, downstream)
            return
        silence_s = None if body.stream else SILENCE_S
        ask = Ask(kind.method, kind.path, arrival.passed_headers, raw, silence_s)
        stream = FleetStream(
            self._gateway.fleet, ask, arrival.nodes, downstream, is_stream=body.stream
        )
        await stream.run()

    async def _nodes_for(self, kind: ManageKind, body: ManageBody, wanted: str | None) -> Nodes:
        if kind is CREATE:
            return await self._gateway.blobs.create_targets(body, wanted)
        return self._gateway.fleet.choose(kind, body, wanted)

    async def _change(self, arrival: Arrival, raw: Body, downstream: Downstream) -> None:
        """Copy or delete."""
        fleet = self._gateway.fleet
        ask = Ask(arrival.method, arrival.path, arrival.passed_headers, raw)
        answers = await fleet.ask(ask, arrival.nodes)
        done = {answer.node for answer in answers if answer.is_ok}
        await fleet.refresh([node for node in arrival.nodes if node.view.id in done])
        _answer(downstream, combine(answers))

    async def _find_blob(self, arrival: Arrival, digest: str, downstream: Downstream) -> None:
        found = await self._gateway.blobs.find(digest, arrival.nodes)
        if len(found) == len(arrival.nodes):
            downstream.start(200, [])
            await downstream.finish()
            return
        body = ollama_error(f"blob {quote(digest)} not found")
        downstream.answer(404, [(b"content-type", JSON_UTF8)], body)

    async def _upload_blob(
        self, arrival: Arrival, digest: str, request: Request, downstream: Downstream
    ) -> None:
        request.is_streamed = True
        declared = arrival.headers.get(b"content-length")
        stall_timeout_s = self._gateway.settings.server.body_stall_timeout_s
        answers = await self._gateway.blobs.upload(
            digest,
            arrival.nodes,
            arrival.passed_headers,
            None if declared is None else int(declared),
            Pieces(request, stall_timeout_s).next,
        )
        failures = {answer.node: answer.text for answer in answers if not answer.is_ok}
        if len(failures) == len(answers):
            _answer(downstream, combine(answers))
            return
        headers: Headers = []
        if failures:
            arrival.outcome.error = FleetFailed.code
            arrival.outcome.error_text = failure_text(failures, _done_on(answers))
            headers.append((b"x-sollol-failed-nodes", ",".join(failures).encode()))
        downstream.answer(max(a.status for a in answers if a.is_ok), headers, b"")


def is_blob(path: str) -> bool:
    """Whether a path is that of a blob."""
    rest = path.removeprefix(BLOBS)
    return rest != path and rest != "" and "/" not in rest


def _read_manage(kind: ManageKind, raw: Body) -> ManageBody:
    return read_manage(kind, raw.view())


def _done_on(answers: Sequence[NodeAnswer]) -> list[str]:
    return [answer.node for answer in answers if answer.is_ok]


def _answer(downstream: Downstream, answer: NodeAnswer) -> None:
    """Pass a node's answer on; one without a body has no type either."""
    headers = [(b"content-type", answer.content_type)] if answer.content_type else []
    downstream.answer(answer.status, headers, answer.body)
