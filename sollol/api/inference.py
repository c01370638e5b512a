"""The routes that nodes answer, without FastAPI in between (it costs more than all of ours).

Reads the request, hands it to ``gateway/forward.py``, and answers what ended before a node did.
"""

import itertools
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from sollol.api.answer import Answer
from sollol.api.body import read_body
from sollol.api.request import Headers, Request
from sollol.api.serving import Serving, shortened, shown_id, target_of
from sollol.errors import (
    InvalidBody,
    ModelNotFound,
    NoNodeAvailable,
    RouteNotFound,
    SollolError,
)
from sollol.gateway.body import Body, aside, spooled
from sollol.gateway.call import Call, Outcome
from sollol.gateway.fallback import forward_any
from sollol.gateway.gateway import Gateway
from sollol.gateway.model_rules import Meant
from sollol.gateway.relay import Downstream
from sollol.gateway.rewriting import Changes, KeepAlive, rewritten, seen_in
from sollol.types import Dialect, Task
from sollol.wire.ask import ask_of
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.compression import decompress
from sollol.wire.kinds import OPTIONAL, UNCACHED_STREAMS, BodyKind
from sollol.wire.names import model_key
from sollol.wire.peek import Peek
from sollol.wire.urgency import PRIORITY, body_priority, deadline_s_of, priority_of

PASSED_HEADERS = (
    b"accept",
    b"anthropic-beta",
    b"anthropic-version",
    b"content-type",
    b"traceparent",
    b"tracestate",
    b"user-agent",
)

NO_RULES = Meant("", ())


class Arrival(msgspec.Struct):
    """A request as it came in. ``id`` is unique; ``shown_id`` is the caller's own, if it sent one."""

    kind: BodyKind
    headers: dict[bytes, bytes]
    id: str
    shown_id: str
    arrived_at: float
    model: str = ""
    streams: bool = False
    outcome: Outcome = msgspec.field(default_factory=Outcome)

    @property
    def task(self) -> str:
        """Its label in the metrics."""
        return self.kind.task

    @property
    def node(self) -> str:
        """The node tried last."""
        return self.outcome.node_id

    @property
    def dialect(self) -> Dialect:
        """The caller's."""
        return self.kind.dialect

    @property
    def error_record(self) -> Callable[[str], bytes]:
        """Writes the end of a stream that failed after it began."""
        return self.kind.error_record

    def told(self) -> Headers:
        """Return the headers that tell of the decision."""
        outcome = self.outcome
        if not outcome.node_id:
            return []
        told = [
            (b"x-sollol-node", outcome.node_id.encode()),
            (b"x-sollol-attempts", b"%d" % outcome.attempts),
            (b"x-sollol-queue-wait", b"%.3f" % (outcome.queue_wait_s or 0.0)),
        ]
        if outcome.model:
            told.append((b"x-sollol-model", quote(outcome.model, safe="/:@ ").encode()))
        if outcome.stripped:
            told.append((b"x-sollol-stripped", ",".join(outcome.stripped).encode()))
        return told

    def told_refused(self) -> Headers:
        """Return the headers that a refusal has besides."""
        is_uncached = self.streams and self.kind in UNCACHED_STREAMS
        return [(b"cache-control", b"no-cache")] if is_uncached else []

    def noted(self) -> dict[str, Any]:
        """Return the fields of its log line."""
        answering = {"answering_model": self.outcome.model} if self.outcome.model else {}
        return {
            "path": self.kind.path,
            "model": self.model,
            **answering,
            "node": self.outcome.node_id,
            "attempts": self.outcome.attempts,
            "queue_wait_s": shortened(self.outcome.queue_wait_s or 0.0),
        }


class Inference:
    """Serves requests for models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.clock
        self._serving = Serving(gateway)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        scheduling = gateway.settings.scheduling
        overrides = scheduling.keep_alive_overrides
        self._keep_alive = KeepAlive(scheduling.keep_alive, overrides=overrides)

    async def serve(self, kind: BodyKind, request: Request, answer: Answer) -> None:
        """Answer one request."""
        arrival = self._arrival(kind, request)
        await self._serving.run(arrival, request, answer, partial(self._serve, arrival, request))

    def _arrival(self, kind: BodyKind, request: Request) -> Arrival:
        unique = f"{self._prefix}-{next(self._numbers):x}"
        return Arrival(kind, request.headers, unique, shown_id(request) or unique, self._clock())

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        body = await self._read_body(arrival.kind, request)
        with body:
            call = await aside(body, self._call, arrival, request, body)
            with call.body:  # another one where something was changed
                await self._forward(call, arrival, downstream)

    async def _forward(self, call: Call, arrival: Arrival, downstream: Downstream) -> None:
        try:
            await forward_any(self._gateway.forwarder, call, downstream, arrival.outcome)
        except (ModelNotFound, NoNodeAvailable) as error:
            raise await aside(call.body, _as_ollama_says, call, error) from None

    def _call(self, arrival: Arrival, request: Request, body: Body) -> Call:
        """Return what is to be forwarded; of what was read of the body nothing is kept but its answers.

        Raises:
            SollolError: the request is wrong, or its body has to be written anew and cannot be.
        """
        kind, headers, queue = arrival.kind, arrival.headers, self._gateway.settings.queue
        seen = _read(kind, body, headers)
        arrival.model, arrival.streams = seen.model, seen.stream
        own = body_priority(seen.fields)
        priority = priority_of(
            headers, own, default=queue.default_priority, maximum=queue.max_priority
        )
        deadline_s = deadline_s_of(headers)
        key = model_key(seen.model)
        name, others = self._gateway.rules.resolve(key) or NO_RULES
        arrival.outcome.model = name
        changes = Changes(name, () if own is None else (PRIORITY,), self._keep_alive.of(kind, seen))
        return Call(
            id=arrival.id,
            kind=kind,
            target=target_of(request),
            body=rewritten(kind, body, seen, headers, changes),
            model=arrival.model,
            model_key=model_key(name) if name else key,
            headers=[(name, headers[name]) for name in PASSED_HEADERS if name in headers],
            is_unload=seen.is_load_only and seen.keep_alive_zero,
            ask=ask_of(kind, seen.fields, headers.get(b"x-sollol-session")),
            priority=priority,
            caller=request.connection.peer,
            arrived_at=arrival.arrived_at,
            deadline_s=deadline_s,
            others=() if seen.is_load_only and seen.keep_alive_zero else others,
        )

    async def _read_body(self, kind: BodyKind, request: Request) -> Body:
        limits = self._gateway.settings.server
        body = await read_body(
            request,
            max_bytes=limits.max_body_bytes,
            stall_timeout_s=limits.body_stall_timeout_s,
        )
        encoding = request.headers.get(b"content-encoding")
        if encoding is None or encoding.lower() != b"zstd" or not kind.path.startswith("/v1/"):
            return body
        with body:
            return await aside(body, _decompressed, body)


def _decompressed(body: Body) -> Body:
    """Return it as it was before; few bytes can become many, and hundreds may wait in the queue."""
    return spooled(decompress(body.view()))


def _read(kind: BodyKind, body: Body, headers: dict[bytes, bytes]) -> Peek:
    """Return what routing needs from the body."""
    if kind.task is not Task.OTHER:
        return seen_in(kind, body, headers)
    try:
        seen = seen_in(kind, body, headers)
    except InvalidBody:
        raise RouteNotFound from None
    if not seen.model:
        raise RouteNotFound
    return seen


def _as_ollama_says(call: Call, error: SollolError) -> SollolError:
    """Return what a node would have said: it looks at the request before it looks for the model."""
    kind = call.kind
    if kind.task is Task.OTHER or kind in OPTIONAL:
        return RouteNotFound() if isinstance(error, ModelNotFound) else error
    try:
        check_request(kind, _read(kind, call.body, dict(call.headers)))
    except SollolError as fault:
        return fault
    return model_not_found(kind, call.model) if isinstance(error, ModelNotFound) else error
