"""What a policy is: a rank for each node that has a free slot, the smallest first."""

from collections.abc import Callable
from dataclasses import dataclass

from sollol.scheduling.state import Runner

Rank = Callable[[Runner], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Policy:
    """A way of choosing. Equal ranks are decided at random: by position, the first would get all.

    ``rank`` is None for the policy that compares predicted seconds, busy nodes included.
    """

    name: str
    rank: Rank | None
