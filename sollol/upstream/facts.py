"""What a probe learns of a node, whatever its engine."""

from dataclasses import dataclass

from sollol.types import Engine, Model, Resident


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node's answers at one moment; ``slots`` is None when the engine does not tell."""

    engine: Engine
    version: str
    models: tuple[Model, ...]
    resident: tuple[Resident, ...]
    slots: int | None = None
