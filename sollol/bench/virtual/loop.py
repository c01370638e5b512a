"""A virtual clock, and what happens on it in order."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class Timer:
    """Something that will happen once; :meth:`cancel` prevents it."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Make it not happen."""
        self.action = None


class EventLoop:
    """Runs actions at their moments; those of one moment in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the start."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._next = count()

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        """Let something happen at a moment, at once if that is past."""
        timer = Timer(action)
        heappush(self._timers, (max(when, self.now), next(self._next), timer))
        return timer

    def after(self, delay_s: float, action: Callable[[], object]) -> Timer:
        """Let something happen later."""
        return self.at(self.now + delay_s, action)

    def run(self, is_done: Callable[[], bool]) -> None:
        """Go on from event to event until all is done or nothing is left to happen."""
        timers = self._timers
        while timers and not is_done():
            when, _, timer = heappop(timers)
            if timer.action is not None:
                self.now = when
                timer.action()
