"""Runs a request to its end: however that comes, it is told to the caller and noted, once.

What differs between the routes that nodes answer is in their :class:`Arrival`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from random import uniform
from typing import Any, Protocol, TypeVar

import structlog

from sollol.api.answer import Answer
from sollol.api.request import Headers, Request
from sollol.errors import (
    ClientDisconnected,
    InvalidRequest,
    RequestLoop,
    ShuttingDown,
    SollolError,
)
from sollol.gateway.disconnect import CancelWhenGone
from sollol.gateway.forward import end_broken
from sollol.gateway.gateway import Gateway
from sollol.gateway.outcome import Outcome
from sollol.gateway.relay import Downstream
from sollol.log_writer import info
from sollol.types import Dialect
from sollol.wire.bodies import error_response
from sollol.wire.hops import VIA, gateways_in

log = structlog.get_logger()

JITTER = 0.1
"""By which share callers are told to come again sooner or later than predicted."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Arrival(Protocol):
    """A request as it came in, and what became of it."""

    shown_id: str
    """The caller's own id, if it sent one."""
    arrived_at: float
    outcome: Outcome

    @property
    def task(self) -> str:
        """Its label in the metrics."""
        ...

    @property
    def node(self) -> str:
        """The node that the metrics count it for; empty when there is no one node."""
        ...

    @property
    def dialect(self) -> Dialect:
        """The caller's."""
        ...

    @property
    def error_record(self) -> Callable[[str], bytes]:
        """Writes the end of a stream that failed after it began."""
        ...

    def told(self) -> Headers:
        """Return the headers that tell of what was decided."""
        ...

    def told_refused(self) -> Headers:
        """Return the headers that a refusal has besides."""
        ...

    def noted(self) -> dict[str, Any]:
        """Return the fields of its log line that others do not have."""
        ...


Arrived = TypeVar("Arrived", bound=Arrival)
Serve = Callable[[Arrived, Request, Downstream], Awaitable[None]]
Note = Callable[[Arrived, float], None]


def shown_id(request: Request) -> str:
    """Return the id that a caller gave its request; empty when it gave none that may be shown."""
    given = request.headers.get(b"x-request-id")
    return given.decode() if given and _REQUEST_ID.fullmatch(given) else ""


def target_of(request: Request) -> str:
    """Return path and query as they go to a node.

    Raises:
        InvalidRequest: they hold what may not be in a request line.
    """
    if not request.target:
        raise InvalidRequest("the path and query must be printable ASCII")
    return request.target


class Serving:
    """Serves requests; holds no state of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway_id = gateway.id
        self._metrics = gateway.metrics
        self._clock = gateway.clock

    async def run(
        self,
        arrival: Arrived,
        request: Request,
        answer: Answer,
        serve: Serve[Arrived],
        note: Note[Arrived] | None = None,
    ) -> None:
        """Answer one request with ``serve``, and refuse it where that fails.

        Args:
            note: is told the seconds that it took, however it ended.
        """
        downstream = Downstream(answer, partial(self._started, arrival))
        try:
            if VIA in request.headers and self._gateway_id in gateways_in(request.headers[VIA]):
                raise RequestLoop
            with CancelWhenGone(request.connection):
                await serve(arrival, request, downstream)
        except ClientDisconnected as error:
            if not downstream.is_whole:
                arrival.outcome.status = error.status
                arrival.outcome.error = error.code
        except SollolError as error:
            await _refuse(arrival, error, downstream)
        except asyncio.CancelledError:  # the server stops and waits no longer
            if answer.is_slow:
                answer.abort()  # it would not read the reason either
            else:
                await _refuse(arrival, ShuttingDown(), downstream)
        except Exception:  # a fault of ours: the caller is told, and the log has the trace
            log.exception("request_failed", request_id=arrival.shown_id)
            await _refuse(arrival, SollolError("internal error of the gateway"), downstream)
        finally:
            # What was written leaves with this turn of the event loop, or where there is more to
            # write, with the next: the books are kept in the one after, before anything is read there.
            duration_s = self._clock() - arrival.arrived_at
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._end, arrival, duration_s, note)

    def _end(self, arrival: Arrived, duration_s: float, note: Note[Arrived] | None) -> None:
        if note is not None:
            note(arrival, duration_s)
        self._done(arrival, duration_s)

    def _started(self, arrival: Arrival, status: int) -> Headers:
        """Note the commit point and return the headers that tell of the decision."""
        arrival.outcome.status = status
        arrival.outcome.first_byte_s = self._clock() - arrival.arrived_at
        return [(b"x-sollol-request-id", arrival.shown_id.encode()), *arrival.told()]

    def _done(self, arrival: Arrival, duration_s: float) -> None:
        outcome = arrival.outcome
        code, first_byte_s = outcome.error or "ok", outcome.first_byte_s
        self._metrics.request_done(
            arrival.task, arrival.node, code, duration_s, None if outcome.error else first_byte_s
        )
        fields = {  # seconds to a tenth of a millisecond; ``round`` takes three times as long
            "request_id": arrival.shown_id,
            **arrival.noted(),
            "status": outcome.status,
            "outcome": code,
            "duration_s": int(duration_s * 10_000) / 10_000,
            "first_byte_s": int((first_byte_s or 0.0) * 10_000) / 10_000,
        }
        if outcome.error_text:
            log.warning("request_done", **fields, error=outcome.error_text)
        elif outcome.status >= 500:
            log.warning("request_done", **fields)
        else:
            info("request_done", fields)


async def _refuse(arrival: Arrival, error: SollolError, downstream: Downstream) -> None:
    """Say what went wrong in the caller's dialect, in the stream when one has begun."""
    arrival.outcome.error, arrival.outcome.error_text = error.code, str(error)
    if downstream.is_started:
        await end_broken(arrival.error_record, error, downstream)
        return
    status, content_type, body = error_response(arrival.dialect, error)
    headers = [(b"content-type", content_type), *arrival.told_refused()]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", retry_after(error.retry_after_s)))
    downstream.answer(status, headers, body)


def retry_after(seconds: float) -> bytes:
    """Return a header's value of about so many seconds: those who are refused together come apart."""
    return b"%d" % ceil(seconds * uniform(1.0 - JITTER, 1.0 + JITTER))
