"""A request in the units that costs are made of."""

import msgspec

from sollol.scheduling.decision import Obstacle, Terms
from sollol.scheduling.state import Options, Runner

YIELDS = 3.0
"""Who is less urgent by so many levels does not slow another one down, nor push out its model."""


class Work(msgspec.Struct, gc=False):
    """What a request means for a node; the same on all."""

    model: str
    prompt_tokens: int
    output_tokens: int
    options: Options
    conversation: int
    key: float
    """Its place in the queue: who has a smaller one goes first."""
    level: float
    """Its priority, and one more for each time it has waited what a level is worth."""


class Priced(msgspec.Struct, gc=False):
    """A runner and what the request costs there."""

    runner: Runner
    terms: Terms
    total_s: float
    cached_tokens: int
    loads: bool
    """The model must be loaded first."""
    obstacle: Obstacle
    other: Runner | None
    """The runner that stands in the way, if it is one."""

    @property
    def can_start(self) -> bool:
        """Whether the request can be sent there now."""
        return not self.obstacle
