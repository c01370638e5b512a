"""When to start a program again that has died, and when to stop trying."""

from collections.abc import Sequence

CRASH_WINDOW_S = 300.0
CRASHES_TO_GIVE_UP = 5
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0


def restart_delay_s(deaths: Sequence[float], now: float) -> float | None:
    """Return how long to wait before the next start, or None to give up.

    The wait doubles with every death of the last ``CRASH_WINDOW_S``; that many deaths in it as
    ``CRASHES_TO_GIVE_UP`` are a fault that starting again does not mend.

    Args:
        deaths: when the program died, the latest one included; monotonic seconds.
        now: the same clock.
    """
    recent = sum(1 for died_at in deaths if now - died_at < CRASH_WINDOW_S)
    if recent >= CRASHES_TO_GIVE_UP:
        return None
    return min(FIRST_DELAY_S * 2.0 ** max(recent - 1, 0), MAX_DELAY_S)
