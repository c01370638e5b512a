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
    ModelNotFound,
    NoNodeAvailable,
    Overloaded,
    SollolError,
)
from sollol.gateway.body import Body, aside
from sollol.gateway.call import Call, Outcome
from sollol.gateway.disconnect import CancelWhenGone
from sollol.gateway.forward import end_broken
from sollol.gateway.gateway import Gateway
from sollol.gateway.relay import Downstream
from sollol.wire.bodies import error_response
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.kinds import BodyKind
from sollol.wire.names import model_key
from sollol.wire.peek import peek

log = structlog.get_logger()

PASSED_HEADERS = (b"accept", b"content-type", b"traceparent", b"tracestate", b"user-agent")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Arrival(msgspec.Struct):
    """A request as it came in. ``id`` is unique; ``shown_id`` is the caller's own, if it sent one."""

    kind: BodyKind
    headers: dict[bytes, bytes]
    id: str
    shown_id: str
    arrived_at: float
    model: str = ""
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
        limits = self._gateway.settings.server
        body = await read_body(
            request,
            max_bytes=limits.max_body_bytes,
            stall_timeout_s=limits.body_stall_timeout_s,
        )
        with body:
            arrival.model, is_unload = await aside(body, _read, kind, body)
            call = Call(
                id=arrival.id,
                kind=kind,
                body=body,
                model=arrival.model,
                model_key=model_key(arrival.model),
                headers=[(name, headers[name]) for name in PASSED_HEADERS if name in headers],
                is_unload=is_unload,
            )
            try:
                await self._gateway.forwarder.forward(call, downstream, arrival.outcome)
            except (ModelNotFound, NoNodeAvailable) as error:
                raise await aside(body, _as_ollama_says, call, error) from None

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


def _read(kind: BodyKind, body: Body) -> tuple[str, bool]:
    """Return the model a body names, and whether it only asks to unload that."""
    seen = peek(kind, body.view())
    return seen.model, seen.is_load_only and seen.keep_alive_zero


def _as_ollama_says(call: Call, error: SollolError) -> SollolError:
    """Return what a node would have said: it looks at the request before it looks for the model."""
    try:
        check_request(call.kind, peek(call.kind, call.body.view()))
    except SollolError as fault:
        return fault
    return model_not_found(call.kind, call.model) if isinstance(error, ModelNotFound) else error


async def _refuse(arrival: Arrival, error: SollolError, downstream: Downstream) -> None:
    """Say what went wrong in the caller's dialect, in the stream when one has begun."""
    arrival.outcome.error, arrival.outcome.error_text = error.code, str(error)
    if downstream.is_started:
        await end_broken(arrival.kind.dialect, error, downstream)
        return
    status, content_type, body = error_response(arrival.kind.dialect, error)
    headers = [(b"content-type", content_type)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    downstream.answer(status, headers, body)
