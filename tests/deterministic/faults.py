"""What can go wrong at a simulated node, and when."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """One way to fail."""

    # Of the whole node:
    REFUSE = "refuse"
    """Connections are refused; those that are open stay."""
    RESTART = "restart"
    """Every connection breaks off, nobody listens for a while, and nothing is in memory after."""
    PARTITION = "partition"
    """Bytes vanish on the way; the node goes on."""
    VANISH = "vanish"
    """The node loses power: bytes vanish, and nothing is in memory after."""
    DEAF = "deaf"
    """Probes are answered with 500, requests as ever."""
    MUTE = "mute"
    """Probes get no answer, requests as ever."""
    SLOW = "slow"
    """Everything takes eight times as long."""

    # Of single requests:
    RESET = "reset"
    """The connection breaks off in place of an answer."""
    SILENT = "silent"
    """No answer, while probes are answered."""
    FULL = "full"
    """503: the node's own queue is full."""
    MISSING = "missing"
    """404: the model was deleted."""
    TOO_MANY = "too_many"
    """429."""
    CRASH = "crash"
    """500: the runner died, and with it everything that it ran."""
    BROKEN = "broken"
    """500 for a reason of its own."""
    ERROR_FIRST = "error_first"
    """The first record of a stream is an error."""
    ERROR_LATER = "error_later"
    """An error record after some tokens."""
    CUT = "cut"
    """The connection breaks off after some tokens."""
    SHORT = "short"
    """The body ends in order after some tokens, without the last record."""
    HANG = "hang"
    """Nothing more after some tokens."""


OF_NODE = (
    Fault.REFUSE,
    Fault.RESTART,
    Fault.PARTITION,
    Fault.VANISH,
    Fault.DEAF,
    Fault.MUTE,
    Fault.SLOW,
)
OF_REQUESTS = tuple(fault for fault in Fault if fault not in OF_NODE)

AT_ONCE = (Fault.FULL, Fault.MISSING, Fault.TOO_MANY, Fault.BROKEN)
"""Answered before the request gets a slot."""


@dataclass(frozen=True, slots=True)
class Window:
    """From ``start`` to ``end`` (in ticks) a node fails in one way.

    ``share`` is that of the requests which it happens to, ``after`` the tokens that come before it,
    and an empty ``model`` stands for all models.
    """

    node: str
    fault: Fault
    start: int
    end: int
    share: float = 1.0
    after: int = 0
    model: str = ""
