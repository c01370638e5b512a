"""What the scheduler answers to an event. The gateway carries these out; it never decides itself."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from sollol.errors import SollolError
from sollol.types import Lease


class Terms(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Predicted seconds until the caller has its answer on one node, by what they are spent on.

    The last two are not the caller's own seconds: they are what the choice costs others.
    """

    wait_s: float = 0.0
    """Until it can be sent there: what of these lasts longest is what counts.

    A slot, after those who wait ahead; another model's load; the end of what must leave for a load,
    or the time for which that is kept; somebody clearly more urgent.
    """
    load_s: float = 0.0
    """Bringing the model into memory, or the rest of its load under way."""
    prefill_s: float = 0.0
    """Evaluating what of the prompt is not cached there."""
    decode_s: float = 0.0
    """Generating the expected output at the node's present concurrency."""
    risk_s: float = 0.0
    """The chance that the node fails times what a retry costs."""
    eviction_s: float = 0.0
    """What other models' users will wait because this load pushes their model out."""
    crowding_s: float = 0.0
    """What requests that run there already will lose by one more beside them."""

    @property
    def own_s(self) -> float:
        """What the caller itself waits: the prediction that is compared with the truth."""
        return self.wait_s + self.load_s + self.prefill_s + self.decode_s + self.risk_s

    @property
    def total_s(self) -> float:
        """The cost that decides."""
        return self.own_s + self.eviction_s + self.crowding_s


class Obstacle(StrEnum):
    """What keeps a request from being sent to a node now."""

    NONE = ""
    FULL = "full"
    """Its slots are taken, or others come before."""
    LOADING = "loading"
    """It loads another model."""
    BUSY = "busy"
    """What must leave its memory is in use."""
    WANTED = "wanted"
    """What must leave is wanted by others and was loaded lately."""
    KEPT = "kept"
    """What must leave was used lately by somebody clearly more urgent."""
    CLAIMED = "claimed"
    """Room is being made there for another model."""
    URGENT = "urgent"
    """Somebody clearly more urgent runs there and would be slowed down."""


class Option(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A node that was considered, and what it would cost."""

    node_id: str
    terms: Terms | None
    is_resident: bool
    has_free_slot: bool
    in_flight: int
    obstacle: Obstacle = Obstacle.NONE
    """Why the request could not be sent there at once."""
    other_model: str = ""
    """The model that stood in the way."""


class Rule(StrEnum):
    """Why the chosen node was taken, or why none was."""

    COST = "cost"
    """It has the answer soonest, what that costs others counted in."""
    POLICY = "policy"
    """The policy's own order, which is not made of seconds."""
    EXPLORE = "explore"
    """It may have become faster than what is known of it, and that is worth a try now and then."""
    TRIAL = "trial"
    """It failed, and this one request shows whether it does its work again."""
    PATIENCE = "patience"
    """The node that was waited for did not become free in time, so any free one was taken."""
    WAIT = "wait"
    """A busy node will have the answer sooner than any that is free."""
    CALLER = "caller"
    """The caller has as many requests in flight as it may."""


class Decision(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Why a request went where it went, or waits; ``at`` is of the monotonic clock."""

    request_id: str
    model: str
    at: float
    policy: str
    chosen: str
    """A node's id; empty while the request waits or when it was refused."""
    rule: Rule
    """What decided."""
    options: tuple[Option, ...]
    """The cheapest first; at most ``MAX_OPTIONS``."""
    considered: int
    """How many nodes were compared."""
    priority: int = 5
    prompt_tokens: int = 0
    """As predicted from the prompt's bytes."""
    output_tokens: int = 0
    """As expected of this model, task and caller."""


MAX_OPTIONS = 8


class Grant(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A request may run on ``lease.node_id``; ``decision`` is None for what takes no slot."""

    lease: Lease
    decision: Decision | None = None


class Prewarm(msgspec.Struct, frozen=True):
    """A model is to be loaded on a node before somebody asks for it there.

    How that ended is told with ``Scheduler.load_ended``.
    """

    node_id: str
    model: str
    """Its key, as in :attr:`NodeView.models`."""
    reason: str
    """For people."""


class Refusal(msgspec.Struct, frozen=True):
    """A request will not run: it was shed at the door or expired in the queue."""

    request_id: str
    error: SollolError


Effect = Grant | Refusal | Prewarm


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
