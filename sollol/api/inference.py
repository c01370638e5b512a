"""The routes that nodes answer, without FastAPI in between (it costs more than all of ours).

Reads the request, hands it to ``gateway/forward.py``, and answers what ended before a node did.
"""

import itertools
import secrets
from collections.abc import Coroutine

from sollol.api.answer import Answer
from sollol.api.arrival import Arrival
from sollol.api.body import BodyReader
from sollol.api.calls import Calls, read_peek
from sollol.api.request import Request
from sollol.api.serving import Serving, shown_id
from sollol.errors import ModelNotFound, NoNodeAvailable, RouteNotFound, SollolError
from sollol.gateway.body import Body, aside
from sollol.gateway.body_writer import spooled
from sollol.gateway.call import Call
from sollol.gateway.fallback import forward_any
from sollol.gateway.gateway import Gateway
from sollol.gateway.journal import prediction
from sollol.gateway.relay import Downstream
from sollol.types import Task
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.compression import decompress
from sollol.wire.kinds import OPTIONAL, BodyKind


class Inference:
    """Serves requests for models."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._clock = gateway.clock
        self._serving = Serving(gateway)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._calls = Calls(gateway)
        self._bodies = BodyReader.of(gateway)

    def serve(
        self, kind: BodyKind, request: Request, answer: Answer
    ) -> Coroutine[object, object, None]:
        """Answer one request."""
        arrival = self._arrival(kind, request)
        return self._serving.run(arrival, request, answer, self._serve, self._note)

    def _note(self, arrival: Arrival, duration_s: float) -> None:
        """Note in the journal and the metrics what was decided, and what came of it."""
        entry, outcome, metrics = arrival.entry, arrival.outcome, self._gateway.metrics
        if entry is None:
            return
        for attempt in outcome.tries:
            lease, decision = attempt.grant.lease, attempt.grant.decision
            if decision is not None:
                metrics.decided(decision.rule, lease.node_id, lease.loads)
        if outcome.queue_wait_s is not None:
            metrics.waited(entry.task, entry.priority, outcome.queue_wait_s)
        if outcome.continuation is not None:
            metrics.continued(outcome.continuation.outcome)
        told = prediction(entry)
        if told is not None:
            metrics.predicted(entry.task, *told)
        self._gateway.journal.close(entry, duration_s)

    def _arrival(self, kind: BodyKind, request: Request) -> Arrival:
        unique = f"{self._prefix}-{next(self._numbers):x}"
        headers = request.headers
        shown = (b"x-request-id" in headers and shown_id(request)) or unique
        return Arrival(kind, headers, unique, shown, self._clock(), kind.task)

    async def _serve(self, arrival: Arrival, request: Request, downstream: Downstream) -> None:
        gateway = self._gateway
        bodies = self._bodies
        body = (  # each coroutine that is not needed is one less to wake up through
            bodies.whole(request) if request.is_complete else await bodies.read(request)
        )
        if b"content-encoding" in request.headers and is_compressed(arrival.kind, request):
            body = await self._decompressed(body)
        with body:
            call = (
                await aside(body, self._calls.make, arrival, request, body)
                if body.is_long
                else self._calls.make(arrival, request, body)
            )
            if call.body is not body:  # something was changed
                gateway.bodies.hold(call.body)
            try:
                gateway.bodies.waits(call.id, call.body)
                arrival.entry = gateway.journal.open(call, arrival.shown_id, arrival.outcome)
                forwarder = gateway.forwarder_of(call)
                if call.others:
                    await forward_any(forwarder.forward, call, downstream, arrival.outcome)
                else:
                    await forwarder.forward(call, downstream, arrival.outcome)
            except (ModelNotFound, NoNodeAvailable) as error:
                raise await aside(call.body, _as_ollama_says, call, error) from None
            finally:
                if call.body is not body:
                    call.body.close()

    async def _decompressed(self, body: Body) -> Body:
        """Return a body as it was before it was compressed; the one that came is closed."""
        with body:
            return self._gateway.bodies.hold(await aside(body, _decompressed, body))


def is_compressed(kind: BodyKind, request: Request) -> bool:
    """Whether a body is to be decompressed, as an Ollama does on these routes."""
    encoding = request.headers.get(b"content-encoding")
    return encoding is not None and encoding.lower() == b"zstd" and kind.path.startswith("/v1/")


def _decompressed(body: Body) -> Body:
    """Return it as it was before; few bytes can become many, and hundreds may wait in the queue."""
    return spooled(decompress(body.view()))


def _as_ollama_says(call: Call, error: SollolError) -> SollolError:
    """Return what a node would have said: it looks at the request before it looks for the model."""
    kind = call.kind
    if kind.task is Task.OTHER or kind in OPTIONAL:
        return RouteNotFound() if isinstance(error, ModelNotFound) else error
    try:
        check_request(kind, read_peek(kind, call.body, dict(call.headers)))
    except SollolError as fault:
        return fault
    return model_not_found(kind, call.model) if isinstance(error, ModelNotFound) else error
