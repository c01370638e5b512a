"""How much may be tried again: retries that many requests want at once would make an overload worse.

Source: Finagle, RetryBudget; Envoy, retry budgets. In tokens, as a long prompt costs what a hundred
short ones do. Pure.
"""

from collections import deque

WINDOW_S = 10.0
"""How long what a request paid in, or a retry took out, counts."""

STEP_S = 0.5
"""How exactly that is known."""


class RetryBudget:
    """Owner of the tokens that retries may take.

    Requests pay in a share of their tokens; what is there are those in flight and of the last
    ``WINDOW_S`` seconds. ``reserve`` retries in that time are free, so that a quiet gateway, or the
    end of one node, is no reason to refuse one.
    """

    def __init__(self, share: float, reserve: int) -> None:
        self._share = share
        self._reserve = reserve
        self._begun = 0.0
        self._ended = 0.0
        self._history: deque[tuple[float, float]] = deque()
        """Moments, and the tokens of requests that had ended by then."""
        self._taken: deque[tuple[float, float]] = deque()

    def begin(self, tokens: float) -> None:
        """Count a request that was sent for the first time."""
        self._begun += tokens

    def end(self, tokens: float) -> None:
        """Count it as ended, however it did."""
        self._ended += tokens

    def take(self, tokens: float, now: float) -> bool:
        """Take what a retry costs; False if there is not enough."""
        self.pass_time(now)
        if len(self._taken) >= self._reserve:
            in_flight = self._begun - self._ended
            lately = self._ended - (self._history[0][1] if self._history else 0.0)
            spent = sum(taken for _, taken in self._taken)
            if spent + tokens > self._share * (in_flight + lately):
                return False
        self._taken.append((now, tokens))
        return True

    def pass_time(self, now: float) -> None:
        """Forget what is too long ago; to be called every ``STEP_S`` or so."""
        while self._taken and self._taken[0][0] <= now - WINDOW_S:
            self._taken.popleft()
        history = self._history
        while len(history) > 1 and history[1][0] <= now - WINDOW_S:
            history.popleft()
        if not history or now - history[-1][0] >= STEP_S:
            history.append((now, self._ended))

    @property
    def in_flight(self) -> float:
        """Tokens of the requests in flight."""
        return self._begun - self._ended
