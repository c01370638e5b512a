"""Whether a node may be given work: pure state machines, fed by probes and by real requests.

Probes say whether a server is there, requests whether it does its work: a node that answers
``/api/tags`` while its generations hang is up, and ejected. What a failure counts for is decided in
``gateway/failover.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from random import Random

from sollol.types import NodeState

NOT_PROBED = "not probed yet"

CAME_BACK = "it is back, but failed shortly before too, so it gets one request at a time at first"

JITTER = 0.2
"""Ejections are up to this share shorter or longer, so that several gateways do not try in step."""

MODELS_OF_NODE = 2
"""So many models ejected on a node at once, and it is the node."""


class Blame(Enum):
    """What a failure counts for."""

    NOBODY = "nobody"
    HALF = "half"
    """Half a failure of the node: it was silent, and may only be slow."""
    NODE = "node"
    AT_ONCE = "at_once"
    """There is nobody: the node is down until a probe succeeds."""
    MODEL = "model"
    """A failure of one model on the node."""

    @property
    def counts(self) -> bool:
        """Whether it counts for anything."""
        return self is not Blame.NOBODY


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """``fall`` failed probes in a row make a node unhealthy, ``rise`` good ones healthy again.

    ``eject_after`` failed requests in a row eject a node, or a model on it, for ``eject_s`` seconds,
    twice as long each further time, ``max_eject_s`` at most.
    """

    fall: int = 3
    rise: int = 1
    eject_after: int = 3
    eject_s: float = 5.0
    max_eject_s: float = 120.0


def ejection_s(ejections: int, base_s: float, max_s: float) -> float:
    """Return how long an ejection lasts; longer each time, so that what flaps is tried less often.

    Args:
        ejections: in a row, counting this one; with none it is over at once.
        base_s: seconds of the first one.
        max_s: seconds never exceeded.

    Source: Envoy, outlier detection, "Ejection algorithm"; doubling as DESIGN.md, section 5.
    """
    if ejections < 1:
        return 0.0
    return min(max_s, base_s * 2.0 ** min(ejections - 1, 32))


class Circuit:
    """Closed (``HEALTHY``), then by failures open (``EJECTED``), then ``HALF_OPEN``, then closed.

    A failure while it is half-open opens it again, for longer; the beginning of a good answer closes
    it, and until one has come to its end a single failure opens it again. Neither means anything while
    it is open: those requests were sent before, or as there was nowhere else to send them.
    """

    def __init__(self, limits: HealthLimits, rng: Random) -> None:
        self._limits = limits
        self._rng = rng
        self.state = NodeState.HEALTHY
        self.until = 0.0
        """When it becomes half-open, while it is open."""
        self.ejections = 0
        """In a row; forgotten once it was closed for ``max_eject_s``."""
        self._failures = 0.0
        self._changed_at = 0.0

    @property
    def is_troubled(self) -> bool:
        """Whether a success would change anything."""
        return self._failures > 0.0 or self.state is not NodeState.HEALTHY

    def failed(self, now: float, weight: float = 1.0) -> None:
        """Count a failed request; ``weight`` failures."""
        if self.state is NodeState.EJECTED:
            return
        self._failures += weight
        self._changed_at = now
        if self.state is NodeState.HALF_OPEN or self._failures >= self._limits.eject_after:
            self.open(now)

    def begun(self, now: float) -> None:
        """Close if half-open, for as long as nothing fails: a request begins to be answered."""
        if self.state is NodeState.HALF_OPEN:
            self._close(now)
            self._failures = self._limits.eject_after - 1.0

    def succeeded(self, now: float) -> None:
        """Count a request that was answered as it should be."""
        if self.state is not NodeState.EJECTED:
            self._close(now)

    def open(self, now: float, *, first_is_free: bool = False) -> None:
        """Let nothing through for a while.

        Args:
            first_is_free: it stays closed this time, unless it was open not long ago.
        """
        if self.is_forgiven(now):
            self.ejections = 0
        self.ejections += 1
        limits = self._limits
        count = self.ejections - 1 if first_is_free else self.ejections
        seconds = ejection_s(count, limits.eject_s, limits.max_eject_s)
        self._failures, self._changed_at = 0.0, now
        if seconds > 0.0:
            self.state = NodeState.EJECTED
            self.until = now + seconds * self._rng.uniform(1.0 - JITTER, 1.0 + JITTER)

    def rest(self, now: float, seconds: float) -> None:
        """Let nothing through for some seconds, for no fault."""
        until = self.until if self.state is NodeState.EJECTED else now
        self.state = NodeState.EJECTED
        self.until = max(until, now + seconds)

    def pass_time(self, now: float) -> None:
        """Become half-open when it is time."""
        if self.state is NodeState.EJECTED and now >= self.until:
            self.state = NodeState.HALF_OPEN

    def replaced(self, now: float) -> None:
        """Close: what failed has gone, and something else is in its place; not if that flaps."""
        if self.ejections <= 1:
            self._close(now)

    def is_forgiven(self, now: float) -> bool:
        """Whether it has been closed for so long that it starts anew."""
        is_closed = self.state is NodeState.HEALTHY
        return is_closed and now - self._changed_at > self._limits.max_eject_s

    def _close(self, now: float) -> None:
        if self.state is not NodeState.HEALTHY:
            self._changed_at = now
        self.state = NodeState.HEALTHY
        self._failures = 0.0


class Health:
    """One node's health; unhealthy until the first probe has succeeded.

    A refused connection counts as ``fall`` failed probes: nobody listens, and asking again will not
    change that. Everything else may be a hiccup.

    Attributes:
        is_up: it answers probes.
        last_error: why it gets no work; empty when it does.
        is_troubled: requests failed; the next one that succeeds is news.
        ejections_total: of the node and of models on it, since the start.
    """

    def __init__(self, limits: HealthLimits, rng: Random) -> None:
        self._limits = limits
        self._rng = rng
        self._failures = 0
        self._successes = 0
        self._was_refused = False
        self._circuit = Circuit(limits, rng)
        self._models: dict[str, Circuit] = {}
        self.is_up = False
        self.last_error = NOT_PROBED
        self.is_troubled = False
        self.ejections_total = 0

    @property
    def state(self) -> NodeState:
        """Return ``UNHEALTHY``, ``EJECTED``, ``HALF_OPEN`` or ``HEALTHY``."""
        return self._circuit.state if self.is_up else NodeState.UNHEALTHY

    def limited(self) -> Mapping[str, NodeState]:
        """Return the models that get nothing there, or one request at a time."""
        circuits = self._models.items()
        return {key: c.state for key, c in circuits if c.state is not NodeState.HEALTHY}

    def probe_succeeded(self, now: float) -> None:
        """A probe was answered as it should be."""
        self._failures = 0
        self._successes += 1
        if self._was_refused:  # it was not there, so what requests failed on has gone
            self._was_refused = False
            self._replaced(now)
        if self._successes >= self._limits.rise and not self.is_up:
            self.is_up = True
            self.last_error = CAME_BACK
        self._settle()

    def probe_failed(self, error: str, now: float, *, is_refused: bool) -> None:
        """A probe was not answered, or not as it should be."""
        self._successes = 0
        self._failures += 1
        if is_refused:
            self._refused(now)
        elif self._failures >= self._limits.fall:
            self.is_up = False
        self._settle()
        if not self.is_up:
            self.last_error = error

    def request_failed(self, blame: Blame, model: str, error: str, now: float) -> None:
        """A request failed, and that counts for something."""
        if not self.is_up:  # it tells of what is known
            return
        before = self._ejected()
        if blame is Blame.AT_ONCE:
            self._successes = 0
            self._refused(now)
        elif blame is Blame.MODEL:
            self._model_failed(model, now)
        else:
            self._circuit.failed(now, 0.5 if blame is Blame.HALF else 1.0)
        self.ejections_total += sum(circuit not in before for circuit in self._ejected())
        self._settle()
        if self.state is not NodeState.HEALTHY:
            self.last_error = error

    def rest(self, model: str, now: float, seconds: float) -> None:
        """Give the node no requests for a model for some seconds: it asked for that."""
        self._circuit_of(model).rest(now, seconds)
        self._settle()

    def request_begun(self, model: str, now: float) -> None:
        """A request begins to be answered as it should be; matters only while half-open."""
        for circuit in self._circuits_of(model):
            circuit.begun(now)
        self._settle()

    def request_succeeded(self, model: str, now: float) -> None:
        """A request was answered as it should be; matters only while ``is_troubled``."""
        for circuit in self._circuits_of(model):
            circuit.succeeded(now)
        self._settle()

    def pass_time(self, now: float) -> None:
        """Let ejections end, and forget old ones."""
        if not self.is_troubled and not self._models:
            return
        for circuit in (self._circuit, *self._models.values()):
            circuit.pass_time(now)
        for model in [m for m, c in self._models.items() if c.is_forgiven(now)]:
            del self._models[model]
        self._settle()

    def _refused(self, now: float) -> None:
        if self.is_up and self._circuit.state is not NodeState.EJECTED:
            self._circuit.open(now, first_is_free=True)
        self._was_refused = True
        self.is_up = False

    def _model_failed(self, model: str, now: float) -> None:
        self._circuit_of(model).failed(now)
        ejected = [c for c in self._models.values() if c.state is NodeState.EJECTED and c.ejections]
        if len(ejected) >= MODELS_OF_NODE and self._circuit.state is not NodeState.EJECTED:
            self._circuit.open(now)
            self._models.clear()

    def _circuit_of(self, model: str) -> Circuit:
        circuit = self._models.get(model)
        if circuit is None:
            circuit = self._models[model] = Circuit(self._limits, self._rng)
        return circuit

    def _circuits_of(self, model: str) -> list[Circuit]:
        """Return those that an answer of a model tells of."""
        circuit = self._models.get(model)
        return [self._circuit] if circuit is None else [self._circuit, circuit]

    def _replaced(self, now: float) -> None:
        for circuit in (self._circuit, *self._models.values()):
            circuit.replaced(now)

    def _ejected(self) -> list[Circuit]:
        circuits = (self._circuit, *self._models.values())
        return [circuit for circuit in circuits if circuit.state is NodeState.EJECTED]

    def _settle(self) -> None:
        """Bring the attributes in step with the circuits."""
        circuits = (self._circuit, *self._models.values())
        self.is_troubled = any(circuit.is_troubled for circuit in circuits)
        if self.state is NodeState.HEALTHY:
            self.last_error = ""
