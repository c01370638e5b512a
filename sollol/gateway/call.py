"""A request as the gateway sees it; what becomes of it is in ``outcome.py``."""

from collections.abc import Awaitable, Callable
from math import inf

from sollol.gateway.body import Body
from sollol.nodes.registry import Node
from sollol.structs import Frozen
from sollol.types import NOTHING_KNOWN, Ask, Lease, RouteRequest
from sollol.wire.kinds import SHOW, BodyKind


class Seam(Frozen):  # type: ignore[misc]  # frozen as its base is
    """Where a call goes on with an answer that broke off on another node.

    ``excluded`` are ids of nodes that cannot; ``check`` raises CannotContinue if the one that was
    chosen turns out not to. ``crashes`` are those that the request may have caused so far.
    """

    excluded: frozenset[str]
    check: Callable[[Node, Lease], Awaitable[None]]
    crashes: int = 0


class Call:
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
    is_unload: bool
    ask: Ask
    priority: int
    caller: str
    arrived_at: float
    deadline_s: float | None
    others: tuple[str, ...]
    streams: bool
    continues: bool
    seam: Seam | None

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        id: str,
        kind: BodyKind,
        target: str,
        body: Body,
        model: str,
        model_key: str,
        headers: list[tuple[bytes, bytes]],
        is_unload: bool = False,
        ask: Ask = NOTHING_KNOWN,
        priority: int = 5,
        caller: str = "",
        arrived_at: float = 0.0,
        deadline_s: float | None = None,
        others: tuple[str, ...] = (),
        streams: bool = False,
        continues: bool = False,
        seam: Seam | None = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.target = target
        self.body = body
        self.model = model
        self.model_key = model_key
        self.headers = headers
        self.is_unload = is_unload
        self.ask = ask
        self.priority = priority
        self.caller = caller
        self.arrived_at = arrived_at
        self.deadline_s = deadline_s
        self.others = others
        self.streams = streams
        self.continues = continues
        self.seam = seam

    def copy(self) -> "Call":
        """Return another call, to be changed before anybody else sees it."""
        return Call(
            self.id,
            self.kind,
            self.target,
            self.body,
            self.model,
            self.model_key,
            self.headers,
            self.is_unload,
            self.ask,
            self.priority,
            self.caller,
            self.arrived_at,
            self.deadline_s,
            self.others,
            self.streams,
            self.continues,
            self.seam,
        )

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
