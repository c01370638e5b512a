"""A request for a model as it came in, and what became of it."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from sollol.api.request import Headers
from sollol.gateway.entries import Entry
from sollol.gateway.outcome import Outcome
from sollol.types import Dialect
from sollol.wire.kinds import UNCACHED_STREAMS, BodyKind


class Arrival:
    """A request as it came in. ``id`` is unique; ``shown_id`` is the caller's own, if it sent one."""

    kind: BodyKind
    headers: dict[bytes, bytes]
    id: str
    shown_id: str
    arrived_at: float
    task: str
    """Its label in the metrics."""
    model: str
    streams: bool
    entry: Entry | None
    """Of the journal; None for what was refused before it came to a decision."""
    outcome: Outcome

    def __init__(
        self,
        kind: BodyKind,
        headers: dict[bytes, bytes],
        id: str,
        shown_id: str,
        arrived_at: float,
        task: str,
    ) -> None:
        self.kind = kind
        self.headers = headers
        self.id = id
        self.shown_id = shown_id
        self.arrived_at = arrived_at
        self.task = task
        self.model = ""
        self.streams = False
        self.entry = None
        self.outcome = Outcome()

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
        wait_s = outcome.queue_wait_s
        told = [
            (b"x-sollol-node", outcome.node_id.encode()),
            (b"x-sollol-attempts", b"%d" % len(outcome.tries)),
            (b"x-sollol-queue-wait", b"%.3f" % wait_s if wait_s else b"0.000"),
        ]
        if outcome.model:
            told.append((b"x-sollol-model", quote(outcome.model, safe="/:@ ").encode()))
        if outcome.stripped:
            told.append((b"x-sollol-stripped", ",".join(outcome.stripped).encode()))
        grant = outcome.tries[-1].grant
        if grant.decision is not None:
            told.append((b"x-sollol-predicted-seconds", b"%.3f" % grant.lease.predicted_s))
        return told

    def told_refused(self) -> Headers:
        """Return the headers that a refusal has besides."""
        is_uncached = self.streams and self.kind in UNCACHED_STREAMS
        return [(b"cache-control", b"no-cache")] if is_uncached else []

    def noted(self) -> dict[str, Any]:
        """Return the fields of its log line."""
        outcome = self.outcome
        answering = {"answering_model": outcome.model} if outcome.model else {}
        return {
            "path": self.kind.path,
            "model": self.model,
            **answering,
            "node": outcome.node_id,
            "attempts": len(outcome.tries),
            "queue_wait_s": int((outcome.queue_wait_s or 0.0) * 10_000) / 10_000,
        }
