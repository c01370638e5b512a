"""What the scheduler answers to an event. The gateway carries these out; it never decides itself."""

from dataclasses import dataclass

import msgspec

from sollol.errors import SollolError
from sollol.types import Lease, NodeView


class Candidate(msgspec.Struct, frozen=True):
    """A node that could run a request now, with what a policy compares.

    ``in_flight`` counts the leases on the node over all models.
    """

    node: NodeView
    runner: str
    is_resident: bool
    in_flight: int


class Grant(msgspec.Struct, frozen=True):
    """A request may run on ``lease.node_id``."""

    lease: Lease


class Refusal(msgspec.Struct, frozen=True):
    """A request will not run: it was shed at the door or expired in the queue."""

    request_id: str
    error: SollolError


Effect = Grant | Refusal


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts at one moment. ``in_flight`` maps node ids."""

    in_flight: dict[str, int]
    queue_length: int
    queue_max_length: int

    @property
    def total_in_flight(self) -> int:
        """Leases held over all nodes."""
        return sum(self.in_flight.values())
