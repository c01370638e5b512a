"""What operators decide of the scheduling; made from the settings."""

from collections.abc import Callable
from dataclasses import dataclass


def _any(_node_id: str, _model: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds and choices of a :class:`~sollol.scheduling.scheduler.Scheduler`.

    ``policy`` is a name in ``policies.POLICIES``; ``is_allowed`` says of a node's id and a model's
    key whether the node may run it (pins, allow and deny lists).
    """

    queue_max_length: int
    policy: str = "fastest"
    ageing_s: float = 10.0
    """Seconds of waiting that are worth one level of priority."""
    max_in_flight_per_caller: int | None = None
    explore_share: float = 0.01
    """Share of the requests that may be spent on finding out whether a slow node has recovered."""
    uses_affinity: bool = True
    """Whether a conversation is worth going back to the node that remembers it."""
    prewarms: bool = True
    """Whether models are loaded before they are asked for; only ``fastest`` does that."""
    is_allowed: Callable[[str, str], bool] = _any
