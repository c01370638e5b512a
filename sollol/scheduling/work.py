"""A request in the units that costs are made of."""

import msgspec

from sollol.scheduling.state import Options

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
