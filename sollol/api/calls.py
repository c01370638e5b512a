"""Makes of a request what is to be forwarded."""

from sollol.api.arrival import Arrival
from sollol.api.request import Request
from sollol.api.serving import target_of
from sollol.errors import InvalidBody, RouteNotFound
from sollol.gateway.body import Body
from sollol.gateway.call import Call
from sollol.gateway.gateway import Gateway
from sollol.gateway.model_rules import Meant
from sollol.gateway.rewriting import Changes, KeepAlive, rewritten, seen_in
from sollol.types import Task
from sollol.wire.ask import ask_of
from sollol.wire.continuation import CONTINUABLE, ON_CUT, continues
from sollol.wire.kinds import BodyKind
from sollol.wire.names import model_key
from sollol.wire.peek import Peek, peek
from sollol.wire.urgency import PRIORITY, body_priority, deadline_s_of, priority_of

PASSED_HEADERS = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"via",
    }
)

NO_RULES = Meant("", ())
_OTHER = Task.OTHER


class Calls:
    """Reads requests by the gateway's rules and settings."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        queue = gateway.settings.queue
        self._default_priority = queue.default_priority
        self._max_priority = queue.max_priority
        self._continues = gateway.settings.failover.mid_stream == "continue"
        scheduling = gateway.settings.scheduling
        overrides = scheduling.keep_alive_overrides
        text = scheduling.keep_alive
        self._keep_alive = None if text is None else KeepAlive(text, overrides=overrides)

    def make(self, arrival: Arrival, request: Request, body: Body) -> Call:
        """Return what is to be forwarded; of what was read of the body nothing is kept but its answers.

        Raises:
            SollolError: the request is wrong, or its body has to be written anew and cannot be.
        """
        kind, headers = arrival.kind, arrival.headers
        seen = read_peek(kind, body, headers)
        arrival.model, arrival.streams = seen.model, seen.stream
        own = body_priority(seen.fields)
        priority = priority_of(
            headers, own, default=self._default_priority, maximum=self._max_priority
        )
        deadline_s = deadline_s_of(headers)
        key = model_key(seen.model)
        (name, others), sent = NO_RULES, body
        meant = self._gateway.rules.resolve(key)
        keep_alive = None if self._keep_alive is None else self._keep_alive.of(kind, seen)
        if meant is not None or own is not None or keep_alive is not None:
            name, others = meant or NO_RULES
            arrival.outcome.model = name
            changes = Changes(name, () if own is None else (PRIORITY,), keep_alive)
            sent = rewritten(kind, body, seen, headers, changes)
        on_cut = headers.get(ON_CUT)
        goes_on = self._continues if on_cut is None else continues(on_cut)
        is_unload = seen.is_load_only and seen.keep_alive_zero
        return Call(
            arrival.id,
            kind,
            target_of(request),
            sent,
            arrival.model,
            model_key(name) if name else key,
            [header for header in headers.items() if header[0] in PASSED_HEADERS],
            is_unload,
            ask_of(kind, seen.fields, headers.get(b"x-sollol-session")),
            priority,
            request.connection.peer,
            arrival.arrived_at,
            deadline_s,
            () if is_unload else others,
            seen.stream,
            goes_on and seen.stream and kind in CONTINUABLE,
        )


def read_peek(kind: BodyKind, body: Body, headers: dict[bytes, bytes]) -> Peek:
    """Return what routing needs from the body."""
    if kind.task is not _OTHER:
        return seen_in(kind, body, headers) if kind.is_multipart else peek(kind, body.view())
    try:
        seen = seen_in(kind, body, headers)
    except InvalidBody:
        raise RouteNotFound from None
    if not seen.model:
        raise RouteNotFound
    return seen
