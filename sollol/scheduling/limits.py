"""What operators decide of the scheduling; made from the settings."""

from collections.abc import Callable
from dataclasses import dataclass


def _any(_node_id: str, _model: str) -> bool:
    return True


def _nowhere(_model: str) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds and choices of a :class:`~sollol.scheduling.scheduler.Scheduler`.

    ``policy`` is a name in ``policies.POLICIES``; ``is_allowed`` says of a node's id and a model's
    key whether the node may run it (pins, allow and deny lists), ``pinned_to`` which nodes a model
    is pinned to; both may come to say something else, see ``Scheduler.rules_changed``.
    """

    queue_max_length: int
    policy: str = "fastest"
    ageing_s: float = 10.0
    """Seconds of waiting that are worth one level of priority."""
    max_in_flight_per_caller: int | None = None
    max_share_per_caller: float = 1.0
    """Share of the queue's places that one caller may have while others wait."""
    explore_share: float = 0.01
    """Share of the requests that may be spent on finding out whether a slow node has recovered."""
    uses_affinity: bool = True
    """Whether a conversation is worth going back to the node that remembers it."""
    prewarms: bool = True
    """Whether models are loaded before they are asked for; only ``fastest`` does that."""
    is_allowed: Callable[[str, str], bool] = _any
    pinned_to: Callable[[str], tuple[str, ...]] = _nowhere
    counts_options: bool = True
    """Whether runner options of a request that differ from those of the loaded model mean a load."""
    adapts_options: bool = False
    """Whether a request may be sent with the loaded model's options in place of its own, where
    that cuts nothing short."""
