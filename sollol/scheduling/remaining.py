"""How long answers that are on their way will still take."""

from sollol.scheduling.state import Held


def remaining_s(held: Held, now: float) -> float:
    """Return how long an answer will still take.

    One that is overdue is longer than was thought: the longer it is overdue, the longer.
    """
    left_s = held.ends_at - now
    predicted_s = held.ends_at - held.granted_at
    if left_s > 0.05 * predicted_s:
        return left_s
    return max(0.1 * predicted_s, -0.5 * left_s)
