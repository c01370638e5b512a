"""Whether a node is up: a pure state machine fed by probes and by real traffic."""

from dataclasses import dataclass

NOT_PROBED = "not probed yet"


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """``fall`` failures in a row make a node unhealthy, ``rise`` good probes healthy again."""

    fall: int = 3
    rise: int = 1


class Health:
    """One node's health; unhealthy until the first probe has succeeded.

    A refused connection counts as ``fall`` failures: nobody listens, and asking again will not
    change that. Everything else may be a hiccup.
    """

    def __init__(self, limits: HealthLimits) -> None:
        self._limits = limits
        self._failures = 0
        self._successes = 0
        self.is_healthy = False
        self.last_error = NOT_PROBED

    def probe_succeeded(self) -> None:
        """A probe was answered as it should be."""
        self._failures = 0
        self._successes += 1
        if self._successes >= self._limits.rise:
            self.is_healthy = True
            self.last_error = ""

    def failed(self, error: str, *, is_refused: bool = False) -> None:
        """A probe failed, or a request did in a way that is the node's fault."""
        self._successes = 0
        self._failures += 1
        if is_refused or self._failures >= self._limits.fall:
            self.is_healthy = False
        if not self.is_healthy:
            self.last_error = error
