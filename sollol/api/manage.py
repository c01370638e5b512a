"""The routes that change nodes, over the whole fleet: pull, push, create, copy, delete and blobs.

As with inference there is no FastAPI in between: progress is streamed out and blobs are streamed in.
"""

import asyncio
import re
import secrets
from collections.abc import Sequence
from functools import partial

import msgspec
import structlog

from sollol.api.answer import Answer
from sollol.api.body import next_piece, read_body
from sollol.api.request import Request
from sollol.errors import (
    ClientDisconnected,
    FleetFailed,
    Overloaded,
    SollolError,
)
from sollol.gateway.call import Outcome
from sollol.gateway.disconnect import CancelWhenGone
from sollol.gateway.fleet import Ask, Headers, Nodes
from sollol.gateway.fleet_stream import FleetStream
from sollol.gateway.forward import end_broken
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Downstream
from sollol.gateway.verdict import NodeAnswer, combine
from sollol.types import Dialect
from sollol.wire.bodies import JSON_UTF8, error_response, ollama_error, ollama_error_record
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

log = structlog.get_logger()

TASK = "manage"
"""The label of these requests in the metrics."""

SILENCE_S = 6 * 3600.0
"""How long a node may work on what is not streamed: it says nothing before it is done."""

PASSED_HEADERS = (b"content-type", b"traceparent", b"tracestate", b"user-agent")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Arrival(msgspec.Struct):
    """A request as it came in, and what became of it."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    id: str
    arrived_at: float
    model: str = ""
    """The model, or the digest of the blob."""
    nodes: Nodes = ()
    outcome: Outcome = msgspec.field(default_factory=Outcome)

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

    @staticmethod
    def serves(method: str, path: str) -> bool:
        """Whether a request is one of these."""
        kind = MANAGE_KINDS.get(path)
        return kind.method == method if kind else is_blob(path) and method in ("HEAD", "POST")

    async def serve(self, request: Request, answer: Answer) -> None:
        """Answer one request. However it ends, that is noted once, in ``_done``."""
        arrival = self._arrival(request)
        downstream = Downstream(answer, lambda status: self._started(arrival, status))
        try:
            with CancelWhenGone(request.connection):
                await self._serve(arrival, request, downstream)
        except ClientDisconnected as error:
            arrival.outcome.status, arrival.outcome.error = error.status, error.code
        except SollolError as error:
            await _refuse(arrival, error, downstream)
        except asyncio.CancelledError:  # the server stops and waits no longer
            if answer.is_slow:
                answer.abort()
            else:
                stopping = Overloaded("the gateway is shutting down", retry_after_s=1)
                await _refuse(arrival, stopping, downstream)
        except Exception:  # a fault of ours: the caller is told, and the log has the trace
            log.exception("request_failed", request_id=arrival.id)
            await _refuse(arrival, SollolError("internal error of the gateway"), downstream)
        finally:
            self._done(arrival)

    def _arrival(self, request: Request) -> Arrival:
        given = request.headers.get(b"x-request-id", b"")
        shown = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(6)
        return Arrival(request.method, request.path, request.headers, shown, self._clock())

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        kind = MANAGE_KINDS.get(arrival.path)
        if kind is not None:
            await self._manage(arrival, kind, await self._read(request), downstream)
            return
        digest = arrival.model = read_digest(arrival.path.removeprefix(BLOBS))
        arrival.nodes = self._gateway.blobs.targets(arrival.wanted)
        if arrival.method == "HEAD":
            await self._find_blob(arrival, digest, downstream)
            return
        await self._upload_blob(arrival, digest, request, downstream)

    async def _read(self, request: Request) -> bytes:
        limits = self._gateway.settings.server
        body = await read_body(
            request,
            max_bytes=limits.max_body_bytes,
            stall_timeout_s=limits.body_stall_timeout_s,
        )
        with body:
            return body.view()

    async def _manage(
        self, arrival: Arrival, kind: ManageKind, raw: bytes, downstream: Downstream
    ) -> None:
        body = read_manage(kind, raw)
        arrival.model = body.model
        arrival.nodes = await self._nodes_for(kind, body, arrival.wanted)
        if kind in (COPY, DELETE):
            await self._change(arrival, body, downstream)
            return
        silence_s = None if body.stream else SILENCE_S
        ask = Ask(kind.method, kind.path, arrival.passed_headers, body.raw, silence_s)
        stream = FleetStream(
            self._gateway.fleet, ask, arrival.nodes, downstream, is_stream=body.stream
        )
        await stream.run()

    async def _nodes_for(self, kind: ManageKind, body: ManageBody, wanted: str | None) -> Nodes:
        if kind is CREATE:
            return await self._gateway.blobs.create_targets(body, wanted)
        return self._gateway.fleet.choose(kind, body, wanted)

    async def _change(self, arrival: Arrival, body: ManageBody, downstream: Downstream) -> None:
        """Copy or delete."""
        fleet = self._gateway.fleet
        ask = Ask(arrival.method, arrival.path, arrival.passed_headers, body.raw)
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
        declared = arrival.headers.get(b"content-length")
        stall_timeout_s = self._gateway.settings.server.body_stall_timeout_s
        answers = await self._gateway.blobs.upload(
            digest,
            arrival.nodes,
            arrival.passed_headers,
            None if declared is None else int(declared),
            partial(next_piece, request, stall_timeout_s),
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

    def _started(self, arrival: Arrival, status: int) -> Headers:
        """Note when the answer began, and return the headers that tell of the request."""
        arrival.outcome.status = status
        arrival.outcome.first_byte_s = self._clock() - arrival.arrived_at
        headers = [(b"x-sollol-request-id", arrival.id.encode())]
        if arrival.nodes:
            headers.append((b"x-sollol-nodes", arrival.node_ids.encode()))
        return headers

    def _done(self, arrival: Arrival) -> None:
        outcome = arrival.outcome
        duration_s = self._clock() - arrival.arrived_at
        self._gateway.metrics.request_done(
            TASK,
            arrival.node_ids if len(arrival.nodes) == 1 else "",
            outcome.error or "ok",
            duration_s=duration_s,
            first_byte_s=None if outcome.error else outcome.first_byte_s,
            queue_wait_s=None,
        )
        write = log.warning if outcome.status >= 500 or outcome.error_text else log.info
        write(
            "request_done",
            request_id=arrival.id,
            path=arrival.path,
            model=arrival.model,
            nodes=arrival.node_ids,
            status=outcome.status,
            outcome=outcome.error or "ok",
            duration_s=round(duration_s, 4),
            first_byte_s=round(outcome.first_byte_s or 0.0, 4),
            **({"error": outcome.error_text} if outcome.error_text else {}),
        )


def is_blob(path: str) -> bool:
    """Whether a path is that of a blob."""
    rest = path.removeprefix(BLOBS)
    return rest != path and rest != "" and "/" not in rest


def _done_on(answers: Sequence[NodeAnswer]) -> list[str]:
    return [answer.node for answer in answers if answer.is_ok]


def _answer(downstream: Downstream, answer: NodeAnswer) -> None:
    """Pass a node's answer on; one without a body has no type either."""
    headers = [(b"content-type", answer.content_type)] if answer.content_type else []
    downstream.answer(answer.status, headers, answer.body)


async def _refuse(arrival: Arrival, error: SollolError, downstream: Downstream) -> None:
    """Say what went wrong, in the stream when one has begun."""
    arrival.outcome.error, arrival.outcome.error_text = error.code, str(error)
    if downstream.is_started:
        await end_broken(ollama_error_record, error, downstream)
        return
    status, content_type, body = error_response(Dialect.OLLAMA, error)
    headers = [(b"content-type", content_type)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    downstream.answer(status, headers, body)
