"""The routes that nodes answer, without FastAPI in between (it costs more than all of ours).

Reads the request, hands it to ``gateway/forward.py``, and answers what ended before a node did.
"""

import asyncio
import itertools
import re
import secrets

import msgspec
import structlog

from sollol import logs
from sollol.api.answer import Answer
from sollol.api.body import read_body
from sollol.api.request import Headers, Request
from sollol.errors import (
    ClientDisconnected,
    InvalidBody,
    InvalidRequest,
    ModelNotFound,
    NoNodeAvailable,
    Overloaded,
    RouteNotFound,
    SollolError,
)
from sollol.gateway.body import Body, aside
from sollol.gateway.call import Call, Outcome
from sollol.gateway.disconnect import CancelWhenGone
from sollol.gateway.forward import end_broken
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Downstream
from sollol.types import Task
from sollol.wire.bodies import error_response
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.compression import decompress
from sollol.wire.kinds import OPTIONAL, UNCACHED_STREAMS, BodyKind
from sollol.wire.multipart import peek_form
from sollol.wire.names import model_key
from sollol.wire.peek import Peek, peek

log = structlog.get_logger()

PASSED_HEADERS = (
    b"accept",
    b"anthropic-beta",
    b"anthropic-version",
    b"content-type",
    b"traceparent",
    b"tracestate",
    b"user-agent",
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


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


class Inference:
    """Serves requests for models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.clock
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def serve(self, kind: BodyKind, request: Request, answer: Answer) -> None:
        """Answer one request. However it ends, that is noted once, in ``_done``."""
        arrival = self._arrival(kind, request.headers)
        downstream = Downstream(answer, lambda status: self._started(arrival, status))
        try:
            with CancelWhenGone(request.connection):
                await self._serve(arrival, request, downstream)
        except ClientDisconnected as error:
            arrival.outcome.status = error.status
            arrival.outcome.error = error.code
        except SollolError as error:
            await _refuse(arrival, error, downstream)
        except asyncio.CancelledError:  # the server stops and waits no longer
            stopping = Overloaded("the gateway is shutting down", retry_after_s=1)
            if answer.is_slow:
                answer.abort()  # it would not read the reason either
            else:
                await _refuse(arrival, stopping, downstream)
        except Exception:  # a fault of ours: the caller is told, and the log has the trace
            log.exception("request_failed", request_id=arrival.shown_id)
            await _refuse(arrival, SollolError("internal error of the gateway"), downstream)
        finally:
            self._done(arrival)

    def _arrival(self, kind: BodyKind, headers: dict[bytes, bytes]) -> Arrival:
        unique = f"{self._prefix}-{next(self._numbers):x}"
        given = headers.get(b"x-request-id", b"")
        shown = given.decode() if _REQUEST_ID.fullmatch(given) else unique
        return Arrival(kind, headers, unique, shown, self._clock())

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        kind, headers = arrival.kind, arrival.headers
        body = await self._read_body(kind, request)
        with body:
            seen = await aside(body, _read, kind, body, headers)
            arrival.model, arrival.streams = seen.model, seen.stream
            call = Call(
                id=arrival.id,
                kind=kind,
                target=_target(request),
                body=body,
                model=arrival.model,
                model_key=model_key(arrival.model),
                headers=[(name, headers[name]) for name in PASSED_HEADERS if name in headers],
                is_unload=seen.is_load_only and seen.keep_alive_zero,
            )
            try:
                await self._gateway.forwarder.forward(call, downstream, arrival.outcome)
            except (ModelNotFound, NoNodeAvailable) as error:
                raise await aside(body, _as_ollama_says, call, seen, error) from None

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
            return Body(await aside(body, decompress, body.view()))

    def _started(self, arrival: Arrival, status: int) -> Headers:
        """Note the commit point and return the headers that tell of the decision."""
        outcome = arrival.outcome
        outcome.status = status
        outcome.first_byte_s = self._clock() - arrival.arrived_at
        headers = [(b"x-sollol-request-id", arrival.shown_id.encode())]
        if outcome.node_id:
            headers += [
                (b"x-sollol-node", outcome.node_id.encode()),
                (b"x-sollol-attempts", b"%d" % outcome.attempts),
                (b"x-sollol-queue-wait", b"%.3f" % (outcome.queue_wait_s or 0.0)),
            ]
        return headers

    def _done(self, arrival: Arrival) -> None:
        outcome = arrival.outcome
        duration_s = self._clock() - arrival.arrived_at
        self._gateway.metrics.request_done(
            arrival.kind.task,
            outcome.node_id,
            outcome.error or "ok",
            duration_s=duration_s,
            first_byte_s=None if outcome.error else outcome.first_byte_s,
            queue_wait_s=outcome.queue_wait_s,
        )
        write = log.warning if outcome.status >= 500 or outcome.error_text else logs.info
        write(
            "request_done",
            request_id=arrival.shown_id,
            path=arrival.kind.path,
            model=arrival.model,
            node=outcome.node_id,
            status=outcome.status,
            outcome=outcome.error or "ok",
            attempts=outcome.attempts,
            duration_s=round(duration_s, 4),
            queue_wait_s=round(outcome.queue_wait_s or 0.0, 4),
            first_byte_s=round(outcome.first_byte_s or 0.0, 4),
            **({"error": outcome.error_text} if outcome.error_text else {}),
        )


def _read(kind: BodyKind, body: Body, headers: dict[bytes, bytes]) -> Peek:
    """Return what routing needs from the body."""
    if kind.is_multipart:
        return peek_form(body.view(), headers.get(b"content-type", b""))
    if kind.task is not Task.OTHER:
        return peek(kind, body.view())
    try:
        seen = peek(kind, body.view())
    except InvalidBody:
        raise RouteNotFound from None
    if not seen.model:
        raise RouteNotFound
    return seen


def _target(request: Request) -> str:
    """Return path and query as they go to a node.

    Raises:
        InvalidRequest: they hold what may not be in a request line.
    """
    raw = request.raw_path + b"?" + request.query if request.query else request.raw_path
    target = raw.decode("latin-1")
    if not (target.isascii() and target.isprintable()):
        raise InvalidRequest("the path and query must be printable ASCII")
    return target


def _as_ollama_says(call: Call, seen: Peek, error: SollolError) -> SollolError:
    """Return what a node would have said: it looks at the request before it looks for the model."""
    kind = call.kind
    if kind.task is Task.OTHER or kind in OPTIONAL:
        return RouteNotFound() if isinstance(error, ModelNotFound) else error
    try:
        check_request(kind, seen)
    except SollolError as fault:
        return fault
    return model_not_found(kind, call.model) if isinstance(error, ModelNotFound) else error


async def _refuse(arrival: Arrival, error: SollolError, downstream: Downstream) -> None:
    """Say what went wrong in the caller's dialect, in the stream when one has begun."""
    arrival.outcome.error, arrival.outcome.error_text = error.code, str(error)
    if downstream.is_started:
        await end_broken(arrival.kind.error_record, error, downstream)
        return
    status, content_type, body = error_response(arrival.kind.dialect, error)
    headers = [(b"content-type", content_type)]
    if arrival.streams and arrival.kind in UNCACHED_STREAMS:
        headers.append((b"cache-control", b"no-cache"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    downstream.answer(status, headers, body)
