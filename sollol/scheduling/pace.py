"""Whether a model answers far more slowly than it can: its node has lost its GPU, or shares it."""

SLOW = 4.0
"""An answer whose tokens take so many times longer than at the best is slow."""

WELL = 2.0
"""It is over with an answer whose tokens take less than so many times longer."""

SLOW_ANSWERS = 3
"""So many in a row are no accident."""

MIN_ANSWERS = 3
"""From so many answers on it is known what the best is."""


class Pace:
    """The speed of a model on a node beside its best.

    The best is kept as it was when the slow answers began: else they would become the measure.

    Attributes:
        latest_s: seconds for a token of the latest answer alone.
        best_s: the same at the best.
        is_slow: since three slow answers in a row, until one is good again.
    """

    __slots__ = ("_in_a_row", "best_s", "is_slow", "latest_s")

    def __init__(self) -> None:
        self.latest_s = 0.0
        self.best_s = 0.0
        self.is_slow = False
        self._in_a_row = 0

    def take(self, alone_s: float, best_s: float, count: int) -> bool:
        """Take an answer; return whether it is slow by now and was not before.

        Args:
            alone_s: seconds for a token, without what company costs.
            best_s: the lowest average there was, without this answer.
            count: answers that it is known from.
        """
        self.latest_s = alone_s
        if self.is_slow:
            self.is_slow = alone_s >= WELL * self.best_s
            return False
        if not self._in_a_row:
            self.best_s = best_s
        if count < MIN_ANSWERS or alone_s <= SLOW * self.best_s:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        self.is_slow = self._in_a_row == SLOW_ANSWERS
        if self.is_slow:
            self._in_a_row = 0
        return self.is_slow
