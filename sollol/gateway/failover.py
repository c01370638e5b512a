"""What a failed attempt counts for, and when it may be made again: a table, and how to read it. Pure.

A failure is told from the error it came as (:func:`classify`); what follows is in :data:`RULES`.
Only what happens before the first byte to the client can be tried again: that is for the caller of
:meth:`Tally.can_retry` to know.
"""

import errno
import re
import socket
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import NamedTuple

from sollol.errors import (
    ClientDisconnected,
    ConnectFailed,
    DeadlineExceeded,
    MissingOnNode,
    NodeDown,
    ProtocolViolation,
    SollolError,
    UpstreamCut,
    UpstreamStatus,
    UpstreamTimeout,
    WrongAnswer,
)
from sollol.nodes.health import Blame

OUR_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})

MOST_CRASHES = 2
"""A request that may have killed so many nodes or runners is not given to another."""

BACK_OFF_S, MAX_BACK_OFF_S = 0.25, 5.0
"""The longest wait before a node that failed is tried again: at first, and at most."""

MAX_COOL_S = 300.0

_CRASHED = re.compile(
    "unexpectedly stopped|runner process (?:has terminated|no longer running)|cuda error"
    "|out of memory|unable to allocate|error was encountered while running the model",
    re.IGNORECASE,
)
_FULL = re.compile("maximum pending requests exceeded|server busy", re.IGNORECASE)
_LOADING = re.compile("loading model", re.IGNORECASE)


class Failure(StrEnum):
    """What was seen of a failed attempt."""

    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    NO_SUCH_HOST = "no_such_host"
    OURS = "ours"
    """This machine has no room for another connection."""
    CLOSED = "closed"
    """The connection ended before anything of an answer came."""
    DOWN = "down"
    """Probes had found the node down, and the gateway closed the connection."""
    CUT = "cut"
    """It ended inside the answer, or that ended without its last record."""
    SILENT = "silent"
    """Nothing of an answer came in time."""
    STALLED = "stalled"
    """An answer, or the taking of a request, stopped moving."""
    GARBAGE = "garbage"
    """What came is not what the protocol allows."""
    WRONG_ANSWER = "wrong_answer"
    """A page, a redirection, a key that is wrong: no engine answers so."""
    FOREIGN_REFUSAL = "foreign_refusal"
    """400, 413 or the like in no engine's words: the fault of what stands before the node, or of the request."""
    FULL = "full"
    LOADING = "loading"
    """A llama-server that is not ready yet says so."""
    LIMITED = "limited"
    """429: of a cloud model's account."""
    CRASHED = "crashed"
    """The runner died, or had no memory: by its own words."""
    GATEWAY_ERROR = "gateway_error"
    """502, 503 or 504 of something in front of the node."""
    SERVER_ERROR = "server_error"
    """Any other 5xx, or an error in place of a stream: the node's fault, or that of the request."""
    MISSING = "missing"
    """404: it lacks the model or the route."""
    LOOP = "loop"
    """508: the node is a gateway, which would send the request back."""
    REFUSES = "refuses"
    """The request is wrong, or cannot be done: anywhere."""
    TOO_LATE = "too_late"
    CLIENT_LEFT = "client_left"


class Retry(Enum):
    """Whether another attempt may follow."""

    NEVER = "never"
    FREE = "free"
    """It costs nobody anything: the node did nothing of the work."""
    BUDGET = "budget"
    """As far as the budget for retries goes (``budget.py``)."""


class Rule(NamedTuple):
    """What follows a failure.

    Attributes:
        blame: what it counts for.
        retry: whether another attempt may follow.
        is_crash: the request may have caused it, see :data:`MOST_CRASHES`. It is the node's fault if
            the same request begins to be answered later, or if no other node has failed alike.
        needs_proof: it is the node's fault only if the same request begins to be answered later.
        is_free_of_count: it is not one of ``upstream.max_attempts``.
        may_repeat: the same node may be tried again, after a wait, when there is no other.
    """

    blame: Blame
    retry: Retry
    is_crash: bool = False
    needs_proof: bool = False
    is_free_of_count: bool = False
    may_repeat: bool = True


RULES: Mapping[Failure, Rule] = {
    Failure.REFUSED: Rule(Blame.AT_ONCE, Retry.FREE),
    Failure.CONNECT_TIMEOUT: Rule(Blame.NODE, Retry.FREE),
    Failure.NO_SUCH_HOST: Rule(Blame.AT_ONCE, Retry.FREE, may_repeat=False),
    Failure.OURS: Rule(Blame.NOBODY, Retry.FREE),
    Failure.CLOSED: Rule(Blame.NODE, Retry.FREE, is_crash=True),
    Failure.DOWN: Rule(Blame.NOBODY, Retry.FREE),
    Failure.CUT: Rule(Blame.NODE, Retry.BUDGET, is_crash=True),
    Failure.SILENT: Rule(Blame.HALF, Retry.BUDGET, may_repeat=False),
    Failure.STALLED: Rule(Blame.NODE, Retry.BUDGET, may_repeat=False),
    Failure.GARBAGE: Rule(Blame.NODE, Retry.BUDGET),
    Failure.WRONG_ANSWER: Rule(Blame.NODE, Retry.FREE, may_repeat=False),
    Failure.FOREIGN_REFUSAL: Rule(Blame.NODE, Retry.FREE, needs_proof=True, may_repeat=False),
    Failure.FULL: Rule(Blame.NOBODY, Retry.FREE, is_free_of_count=True),
    Failure.LOADING: Rule(Blame.NOBODY, Retry.FREE, is_free_of_count=True),
    Failure.LIMITED: Rule(Blame.NOBODY, Retry.BUDGET, may_repeat=False),
    Failure.CRASHED: Rule(Blame.MODEL, Retry.BUDGET, is_crash=True),
    Failure.GATEWAY_ERROR: Rule(Blame.NODE, Retry.BUDGET),
    Failure.SERVER_ERROR: Rule(Blame.MODEL, Retry.BUDGET, needs_proof=True, may_repeat=False),
    Failure.MISSING: Rule(Blame.NOBODY, Retry.FREE, is_free_of_count=True, may_repeat=False),
    Failure.LOOP: Rule(Blame.NOBODY, Retry.FREE, is_free_of_count=True, may_repeat=False),
    Failure.REFUSES: Rule(Blame.NOBODY, Retry.NEVER),
    Failure.TOO_LATE: Rule(Blame.NOBODY, Retry.NEVER),
    Failure.CLIENT_LEFT: Rule(Blame.NOBODY, Retry.NEVER),
}
"""Source: the failure modes of Ollama and llama-server that were seen, and what gRPC, Envoy and
HAProxy do about their like."""


def classify(error: SollolError) -> Failure:
    """Return what kind of failure an error is."""
    match error:
        case MissingOnNode():
            return Failure.MISSING
        case UpstreamStatus():
            return classify_answer(error.status, str(error))
        case ConnectFailed():
            return _classify_connect(error)
        case NodeDown():
            return Failure.DOWN
        case UpstreamCut():
            return Failure.CUT if error.in_body else Failure.CLOSED
        case UpstreamTimeout():
            return Failure.STALLED if error.in_body else Failure.SILENT
        case ProtocolViolation() | WrongAnswer():
            return _classify_wrong(error)
        case DeadlineExceeded():
            return Failure.TOO_LATE
        case ClientDisconnected():
            return Failure.CLIENT_LEFT
    return Failure.REFUSES


def classify_answer(status: int, text: str) -> Failure:
    """Return what kind of failure an error is that a node told of, by its status and its words."""
    if status == 429:
        return Failure.LIMITED
    if status == 508:
        return Failure.LOOP
    if _FULL.search(text):
        return Failure.FULL
    if _LOADING.search(text):
        return Failure.LOADING
    if _CRASHED.search(text):
        return Failure.CRASHED
    return Failure.GATEWAY_ERROR if status in (502, 503, 504) else Failure.SERVER_ERROR


def _classify_wrong(error: ProtocolViolation | WrongAnswer) -> Failure:
    if isinstance(error, ProtocolViolation):
        return Failure.GARBAGE
    return Failure.FOREIGN_REFUSAL if error.may_be_request else Failure.WRONG_ANSWER


def _classify_connect(error: ConnectFailed) -> Failure:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in OUR_LIMITS:
        return Failure.OURS
    if isinstance(cause, socket.gaierror):
        return Failure.NO_SUCH_HOST
    return Failure.CONNECT_TIMEOUT if isinstance(cause, TimeoutError) else Failure.REFUSED


class Tally:
    """What is counted of the attempts of one request."""

    __slots__ = ("attempts", "crashes", "repeats")

    def __init__(self, crashes: int = 0) -> None:
        self.attempts = 0
        self.crashes = crashes
        self.repeats = 0
        """How often nodes that had failed were tried again."""

    def count(self, rule: Rule) -> None:
        """Count a failed attempt."""
        self.attempts += not rule.is_free_of_count
        self.crashes += rule.is_crash

    def can_retry(self, rule: Rule, max_attempts: int) -> bool:
        """Whether another attempt may follow one that was counted, should the budget allow it."""
        if rule.retry is Retry.NEVER:
            return False
        return self.attempts < max_attempts and self.crashes < MOST_CRASHES


def back_off_s(repeats: int, part: float) -> float:
    """Return how long to wait before a node that failed is tried again.

    Args:
        repeats: how often that was done for this request already.
        part: random, of [0, 1): full jitter.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    return float(min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(repeats, 16))) * part
