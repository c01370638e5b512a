"""A request in the units that costs are made of."""

from sollol.scheduling.decision import Obstacle, Terms
from sollol.scheduling.state import Options, Runner

YIELDS = 3.0
"""Who is less urgent by so many levels does not slow another one down, nor push out its model."""


class Work:
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

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        model: str,
        prompt_tokens: int,
        output_tokens: int,
        options: Options,
        conversation: int,
        key: float,
        level: float,
    ) -> None:
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.options = options
        self.conversation = conversation
        self.key = key
        self.level = level


class Priced:
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

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        runner: Runner,
        terms: Terms,
        total_s: float,
        cached_tokens: int,
        loads: bool,
        obstacle: Obstacle,
        other: Runner | None,
    ) -> None:
        self.runner = runner
        self.terms = terms
        self.total_s = total_s
        self.cached_tokens = cached_tokens
        self.loads = loads
        self.obstacle = obstacle
        self.other = other

    @property
    def can_start(self) -> bool:
        """Whether the request can be sent there now."""
        return not self.obstacle
