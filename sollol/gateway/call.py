"""A request as the gateway sees it, and what became of it."""

import msgspec

from sollol.gateway.body import Body
from sollol.types import RouteRequest
from sollol.wire.kinds import SHOW, BodyKind


class Call(msgspec.Struct, frozen=True):
    """A request to be forwarded. ``model`` is the name as the caller wrote it.

    ``target`` is the path and query as they came.
    ``headers`` are those of the caller's that a node may see.
    ``is_unload``: nothing is asked for but to take the model out of memory.
    """

    id: str
    kind: BodyKind
    target: str
    body: Body
    model: str
    model_key: str
    headers: list[tuple[bytes, bytes]]
    is_unload: bool = False

    def route_request(self, now: float, timeout_s: float, excluded: frozenset[str]) -> RouteRequest:
        """Return what the scheduler needs to know; ``excluded`` nodes have failed already."""
        return RouteRequest(
            id=self.id,
            model=self.model_key,
            arrived_at=now,
            expires_at=now + timeout_s,
            excluded=excluded,
            takes_slot=self.kind is not SHOW and not self.is_unload,
        )


class Outcome(msgspec.Struct):
    """What happened to a call so far; filled in on the way, read by the log and the metrics.

    ``status`` is what the client was told, 0 before that. ``queue_wait_s`` adds up the waits for
    slots and is None while there was none. ``error`` is a code of ``errors.py``.
    """

    node_id: str = ""
    status: int = 0
    attempts: int = 0
    queue_wait_s: float | None = None
    first_byte_s: float | None = None
    error: str = ""
    error_text: str = ""
