"""Decisions as our own API tells them: what was compared, predicted and measured. Values only."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from sollol.gateway.entries import Entry
from sollol.gateway.outcome import Attempt
from sollol.scheduling import explain
from sollol.scheduling.complexity import complexity
from sollol.scheduling.decision import Decision
from sollol.scheduling.overview import Queued
from sollol.types import Ask
from sollol.wire.names import shown_key

ShownName = Annotated[str, BeforeValidator(shown_key)]
"""A model's name as people write it, made from its key."""


class View(BaseModel):
    """Made from the attributes of a value."""

    model_config = ConfigDict(from_attributes=True)


class Terms(View):
    """Predicted seconds by what they are spent on.

    ``own_s`` is what the caller waits: the first five together. ``total_s`` decides; it has what the
    choice costs others besides, ``eviction_s`` and ``crowding_s``.
    """

    wait_s: float
    load_s: float
    prefill_s: float
    decode_s: float
    risk_s: float
    eviction_s: float
    crowding_s: float
    own_s: float
    total_s: float


class Option(BaseModel):
    """A node that was compared. ``obstacle``: why it could not begin at once, ``why_wait``: in words.

    Both are empty if it could.
    """

    node: str
    chosen: bool
    terms: Terms | None
    is_resident: bool
    has_free_slot: bool
    in_flight: int
    obstacle: str
    why_wait: str


class Explained(BaseModel):
    """A decision. ``rule`` is what decided, ``reason`` the same as a sentence.

    ``node`` is empty while the request waits. ``options`` has the cheapest first, at most 8 of the
    nodes ``considered``. ``prompt_tokens`` and ``output_tokens`` are predictions.
    """

    node: str
    rule: str
    reason: str
    policy: str
    considered: int
    prompt_tokens: int
    output_tokens: int
    options: list[Option]


class Measured(View):
    """What an answer took: by the node where it tells, and by the gateway's clock (``total_s``)."""

    load_s: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    prompt_s: float | None
    output_tokens: int | None
    output_s: float | None
    first_byte_s: float | None
    total_s: float | None


class Try(BaseModel):
    """An attempt on a node.

    ``predicted_s`` is from the grant of the slot to the end of the answer, as is ``total_s`` in
    ``measured``. A request that takes no slot has no decision. ``error`` is a code, empty for none.
    ``continues``: it went on with the stream that the attempt before it broke off.
    """

    node: str
    queue_wait_s: float
    loads: bool
    predicted_s: float | None
    measured: Measured | None
    error: str
    continues: bool
    decision: Explained | None


class Continuation(View):
    """A stream that broke off and was to be gone on with.

    ``outcome`` is ``continued``, ``failed``, ``refused`` or ``cancelled``, and ``reason`` why. ``tokens``
    are those that the client had before; null where they were not counted.
    """

    outcome: str
    reason: str
    tokens: int | None


class Complexity(View):
    """``light``, ``moderate``, ``heavy`` or ``long-context``, and what is needed besides."""

    size: str
    needs: list[str]


class Waiting(View):
    """A request that waits. ``level`` is its priority, or more once age has added to it.

    ``predicted_wait_s`` is how long it will still wait; null where that cannot be said. ``node_id`` is
    where it is to run as it looks now.
    """

    model: ShownName
    caller: str
    priority: int
    level: float
    position: int
    waited_s: float
    predicted_wait_s: float | None
    node_id: str
    why: str


class Explanation(BaseModel):
    """A request in the journal.

    ``outcome`` is ``waiting``, ``running``, ``ok`` or the code of an error. ``request_id`` is what its
    caller was told; several may have one that a caller gave twice. ``id`` is unique.
    """

    number: int
    id: str
    request_id: str
    arrived_at: datetime
    path: str
    task: str
    model: str
    priority: int
    caller: str
    outcome: str
    error: str
    status: int
    node: str
    complexity: Complexity | None
    queue_wait_s: float | None
    first_byte_s: float | None
    duration_s: float | None
    waiting: Waiting | None
    continuation: Continuation | None
    attempts: list[Try]


def explained(decision: Decision) -> Explained:
    """Return a decision as it is told."""
    return Explained(
        node=decision.chosen,
        rule=decision.rule,
        reason=explain.sentence(decision),
        policy=decision.policy,
        considered=decision.considered,
        prompt_tokens=decision.prompt_tokens,
        output_tokens=decision.output_tokens,
        options=[
            Option(
                node=option.node_id,
                chosen=option.node_id == decision.chosen,
                terms=None if option.terms is None else Terms.model_validate(option.terms),
                is_resident=option.is_resident,
                has_free_slot=option.has_free_slot,
                in_flight=option.in_flight,
                why_wait=explain.why(option),
                obstacle=option.obstacle,
            )
            for option in decision.options
        ],
    )


def classed(ask: Ask, decision: Decision) -> Complexity:
    """Return the class of a request."""
    value = complexity(ask, decision.prompt_tokens, decision.output_tokens)
    return Complexity.model_validate(value)


def explanation(entry: Entry, waiting: Queued | None) -> Explanation:
    """Return an entry of the journal as it is told.

    Args:
        waiting: its place in the queue; None when it does not wait.
    """
    outcome = entry.outcome
    decision = next((t.grant.decision for t in outcome.tries if t.grant.decision), None)
    return Explanation(
        number=entry.number,
        id=entry.id,
        request_id=entry.shown_id,
        arrived_at=datetime.fromtimestamp(entry.arrived_at, UTC),
        path=entry.path,
        task=entry.task,
        model=entry.model,
        priority=entry.priority,
        caller=entry.caller,
        outcome=entry.outcome_name(is_waiting=waiting is not None),
        error=outcome.error_text,
        status=outcome.status,
        node=outcome.node_id,
        complexity=None if decision is None else classed(entry.ask, decision),
        queue_wait_s=outcome.queue_wait_s,
        first_byte_s=outcome.first_byte_s,
        duration_s=entry.duration_s,
        waiting=None if waiting is None else Waiting.model_validate(waiting),
        continuation=None
        if outcome.continuation is None
        else Continuation.model_validate(outcome.continuation),
        attempts=[_try(attempt) for attempt in outcome.tries],
    )


def _try(attempt: Attempt) -> Try:
    lease, decision, measured = attempt.grant.lease, attempt.grant.decision, attempt.measured
    return Try(
        node=lease.node_id,
        queue_wait_s=lease.queue_wait_s,
        loads=lease.loads,
        predicted_s=None if decision is None else lease.predicted_s,
        measured=None if measured is None else Measured.model_validate(measured),
        error=attempt.error,
        continues=attempt.continues,
        decision=None if decision is None else explained(decision),
    )
