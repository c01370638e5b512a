"""What people may see of the scheduler's state: who waits, and what is known of the nodes. Values."""

from collections.abc import Iterator
from math import exp, sqrt

import msgspec

from sollol.scheduling import explain
from sollol.scheduling.average import Average
from sollol.scheduling.decision import Rule
from sollol.scheduling.queue import Waiting
from sollol.scheduling.state import Node, Runner
from sollol.scheduling.verdict import Verdict


class Queued(msgspec.Struct, frozen=True):
    """A request that waits for a slot; ``request_id`` is the scheduler's, unique one."""

    request_id: str
    model: str
    caller: str
    priority: int
    level: float
    """What it decides with: its priority, or what its place in the queue amounts to, if that is more.

    The place gains one for each ``ageing_s``, from when the caller's turn begins.
    """
    position: int
    """Its place among all that wait, the next one being 1."""
    waited_s: float
    predicted_wait_s: float | None
    """Seconds that it will still wait; None where the policy does not predict it."""
    node_id: str
    """Where it is to run, as it looks; empty where that is open."""
    why: str
    """What it waits for; empty where that is not known."""


def queued(waiting: Waiting, verdict: Verdict, position: int, now: float) -> Queued:
    """Return what may be seen of a request that waits.

    Args:
        verdict: what would be decided for it at this moment.
    """
    request, best = waiting.request, verdict.best
    return Queued(
        request_id=request.id,
        model=request.model,
        caller=request.caller,
        priority=request.priority,
        level=verdict.work.level,
        position=position,
        waited_s=now - waiting.since,
        predicted_wait_s=None if best is None or verdict.is_over else best.terms.wait_s,
        node_id="" if best is None else best.runner.node.id,
        why=_why(verdict),
    )


def _why(verdict: Verdict) -> str:
    if verdict.rule is Rule.CALLER:
        return "its caller has as many requests in flight as it may"
    return "" if verdict.best is None else explain.why(explain.option(verdict.best))


class SlowModel(msgspec.Struct, frozen=True):
    """A model that generated far more slowly than it can on a node; figures are of one request alone."""

    node_id: str
    runner: str
    models: tuple[str, ...]
    """All names that it has there."""
    tokens_per_s: float
    """In the latest answer."""
    best_tokens_per_s: float
    """When it was at its best, before."""
    is_slow: bool
    """False when that is over."""


class NodeEstimate(msgspec.Struct, frozen=True):
    """What is known of a node as a whole."""

    node_id: str
    memory_bytes: int | None
    """What the settings say its models may take; None where they do not."""
    fits_bytes: int
    """So much was seen in its memory together."""
    full_bytes: int | None
    """So much did not fit, if that was seen."""
    fits_models: int
    full_models: int | None
    slowdown: float
    """Share by which each further request in flight lengthens the generating of a token."""
    failure_share: float
    """Of the latest attempts, newer ones counting more, the share that failed."""
    models: tuple["ModelEstimate", ...]


class ModelEstimate(msgspec.Struct, frozen=True):
    """What is expected of a model on a node, and how many measurements that rests on."""

    models: tuple[str, ...]
    """All names that it has there."""
    is_resident: bool
    running: int
    waiting: int
    """Requests that wait for a slot of it there."""
    decode_tokens_per_s: float
    """Of one request alone."""
    decode_count: int
    decode_spread: float | None
    """The factor by which a measurement is off, typically; None before the second one."""
    prefill_tokens_per_s: float
    prefill_count: int
    prefill_spread: float | None
    load_s: float
    load_count: int
    load_spread: float | None
    is_slow: bool
    """It generates at less than a quarter of its best speed."""
    affinity_trust: float
    """From 0 to 1: the share of what should have been cached of conversations that was."""
    conversations: int
    """How many of them it is taken to remember."""


def estimate(node: Node) -> NodeEstimate:
    """Return what is known of a node and of every model on it."""
    capacity = node.capacity
    return NodeEstimate(
        node_id=node.id,
        memory_bytes=capacity.told_bytes,
        fits_bytes=capacity.fits_bytes,
        full_bytes=capacity.full_bytes,
        fits_models=capacity.fits_models,
        full_models=capacity.full_models,
        slowdown=node.slope,
        failure_share=node.failure_share,
        models=tuple(_model_estimates(node)),
    )


def slow_model(runner: Runner) -> SlowModel:
    """Return how slow a model is, or was."""
    pace = runner.rates.pace
    return SlowModel(
        node_id=runner.node.id,
        runner=runner.key,
        models=runner.names,
        tokens_per_s=_per_s(pace.latest_s),
        best_tokens_per_s=_per_s(pace.best_s),
        is_slow=pace.is_slow,
    )


def _model_estimates(node: Node) -> Iterator[ModelEstimate]:
    for runner in node.runners.values():
        rates = runner.rates
        yield ModelEstimate(
            models=runner.names,
            is_resident=runner.is_resident,
            running=len(runner.running),
            waiting=len(runner.backlog),
            decode_tokens_per_s=_per_s(runner.decode_s),
            decode_count=rates.decode.count,
            decode_spread=_spread(rates.decode),
            prefill_tokens_per_s=_per_s(runner.prefill_s),
            prefill_count=rates.prefill.count,
            prefill_spread=_spread(rates.prefill),
            load_s=runner.load_s,
            load_count=rates.load.count,
            load_spread=_spread(rates.load),
            is_slow=rates.pace.is_slow,
            affinity_trust=runner.conversations.trust,
            conversations=len(runner.conversations),
        )


def _spread(average: Average) -> float | None:
    return exp(sqrt(average.log_variance)) if average.count > 1 else None


def _per_s(seconds_each: float) -> float:
    return 1.0 / seconds_each if seconds_each > 0.0 else 0.0
