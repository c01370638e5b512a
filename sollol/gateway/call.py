"""A request as the gateway sees it, and what became of it."""

from collections.abc import Awaitable, Callable
from math import inf

import msgspec

from sollol.gateway.body import Body
from sollol.nodes.registry import Node
from sollol.scheduling.decision import Grant
from sollol.types import NOTHING_KNOWN, Ask, Lease, Measured, RouteRequest
from sollol.wire.kinds import SHOW, BodyKind


class Seam(msgspec.Struct, frozen=True):
    """Where a call goes on with an answer that broke off on another node.

    ``excluded`` are ids of nodes that cannot; ``check`` raises CannotContinue if the one that was
    chosen turns out not to. ``crashes`` are those that the request may have caused so far.
    """

    excluded: frozenset[str]
    check: Callable[[Node, Lease], Awaitable[None]]
    crashes: int = 0


class Call(msgspec.Struct, frozen=True):
    """A request to be forwarded.

    ``model`` is the name as the caller wrote it, ``model_key`` that of the model which the body
    names: another one where the name is an alias.
    ``target`` is the path and query as they came.
    ``headers`` are those of the caller's that a node may see.
    ``is_unload``: nothing is asked for but to take the model out of memory.
    ``caller`` is the address of the caller's end of the connection, without its port.
    ``others`` are names of models to try when no node has this one.
    ``deadline_s`` counts from ``arrived_at``, which is of the gateway's clock.
    ``streams``: the answer is to come piece by piece.
    ``continues``: a stream of it that breaks off is to be gone on with; ``seam``: this call does that.
    """

    id: str
    kind: BodyKind
    target: str
    body: Body
    model: str
    model_key: str
    headers: list[tuple[bytes, bytes]]
    is_unload: bool = False
    ask: Ask = NOTHING_KNOWN
    priority: int = 5
    caller: str = ""
    arrived_at: float = 0.0
    deadline_s: float | None = None
    others: tuple[str, ...] = ()
    streams: bool = False
    continues: bool = False
    seam: Seam | None = None

    @property
    def crashes(self) -> int:
        """Crashes that it may have caused before."""
        return 0 if self.seam is None else self.seam.crashes

    @property
    def takes_slot(self) -> bool:
        """False for what a node answers at once, however busy."""
        return self.kind is not SHOW and not self.is_unload

    def is_too_late(self, now: float) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and now >= self.arrived_at + self.deadline_s

    def left_s(self, now: float) -> float:
        """Return the seconds until its deadline; endless without one."""
        return inf if self.deadline_s is None else self.arrived_at + self.deadline_s - now

    def route_request(
        self,
        now: float,
        timeout_s: float,
        excluded: frozenset[str],
        avoided: frozenset[str] = frozenset(),
    ) -> RouteRequest:
        """Return what the scheduler needs to know; nodes have failed already, or lack something."""
        expires_at = now + timeout_s
        if self.deadline_s is not None:
            expires_at = min(expires_at, self.arrived_at + self.deadline_s)
        return RouteRequest(
            self.id,
            self.model_key,
            now,
            expires_at,
            excluded,
            self.takes_slot,
            self.priority,
            self.caller,
            self.ask,
            avoided,
        )


class Attempt(msgspec.Struct, gc=False, array_like=True):
    """A call on one node. ``measured`` is there once its answer has ended; ``error`` is a code.

    ``continues``: it goes on with what the attempts before it had told the client.
    ``is_crash``: the request may have broken the node.
    """

    grant: Grant
    measured: Measured | None = None
    error: str = ""
    continues: bool = False
    is_crash: bool = False


class Continuation(msgspec.Struct, gc=False, array_like=True):
    """What became of a stream that broke off and was to be gone on with.

    ``outcome`` is ``continued``, ``failed`` (it broke off again), ``refused`` (it could not be done) or
    ``cancelled``; ``reason`` is why. ``tokens`` are those that the client had before; None where they
    were not counted.
    """

    outcome: str
    reason: str = ""
    tokens: int | None = None


class Outcome(msgspec.Struct, gc=False, array_like=True):
    """What happened to a call so far; filled in on the way, read by log, metrics and journal.

    ``status`` is what the client was told, 0 before that. ``queue_wait_s`` adds up the waits for
    slots and is None while there was none. ``first_byte_s`` counts from the arrival. ``sent_at`` is
    when the last attempt was sent, of the gateway's clock. ``error`` is a code of ``errors.py``. ``model`` is the model that was
    asked last where it is another than the caller named, and ``stripped`` are the runner options
    that were replaced for the last attempt.
    """

    node_id: str = ""
    status: int = 0
    tries: list[Attempt] = msgspec.field(default_factory=list)
    queue_wait_s: float | None = None
    first_byte_s: float | None = None
    sent_at: float = 0.0
    error: str = ""
    error_text: str = ""
    model: str = ""
    stripped: tuple[str, ...] = ()
    continuation: Continuation | None = None

    @property
    def predicted_s(self) -> float | None:
        """Seconds from the grant to the end, as predicted for the latest attempt; None if not."""
        if not self.tries:
            return None
        grant = self.tries[-1].grant
        return None if grant.decision is None else grant.lease.predicted_s
