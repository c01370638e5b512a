"""What the scheduler answers to an event. The gateway carries these out; it never decides itself."""

from dataclasses import dataclass

from sollol.errors import SollolError
from sollol.types import Lease, NodeView


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that could run a request now, with what a policy compares.

    ``in_flight`` counts the leases on the node over all models.
    """

    node: NodeView
    is_resident: bool
    in_flight: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A request may run on ``lease.node_id``."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request will not run: it was shed at the door or expired in the queue."""

    request_id: str
    error: SollolError


Effect = Grant | Refusal


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts at one moment. ``in_flight`` maps node ids, ``queued`` model names."""

    in_flight: dict[str, int]
    queued: dict[str, int]
    queue_length: int
    queue_max_length: int

    @property
    def total_in_flight(self) -> int:
        """Leases held over all nodes."""
        return sum(self.in_flight.values())
