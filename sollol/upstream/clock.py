"""The clock that runs while we wait for a node."""

import asyncio
from collections.abc import Callable

_MAX_TICK_S = 3600.0
"""Limits may be infinite; event loops do not take infinite delays."""


def _nobody() -> None:
    """Take the place of who was to be told."""


class WaitClock:
    """Limits waits one after another with at most one event loop timer.

    The timer fires once per ``tick_s`` at most and looks how long the current wait has lasted, so
    starting and stopping a wait costs a read of the loop's clock and no timer. A limit below
    ``tick_s`` may be noticed as much too late as it is below.
    """

    __slots__ = ("_closed", "_limit_s", "_loop", "_on_expired", "_since", "_tick_s", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tick_s: float, on_expired: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._tick_s = min(tick_s, _MAX_TICK_S)
        self._on_expired = on_expired
        self._closed = False
        self._since: float | None = None
        self._limit_s = tick_s
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit_s(self) -> float:
        """The limit of the current or latest wait."""
        return self._limit_s

    @property
    def since(self) -> float | None:
        """When the current wait began, by the loop's clock; None while there is none."""
        return self._since

    def start(self, limit_s: float) -> None:
        """Begin a wait, in place of the current one if there is one."""
        self._since = self._loop.time()
        self._limit_s = limit_s
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(self._tick_s, self._look)

    def extend(self, limit_s: float) -> None:
        """Let the wait that has just expired go on, as if it had had this limit; within ``on_expired``."""
        self._limit_s = limit_s
        self._look()

    def stop(self) -> None:
        """End the wait."""
        self._since = None

    def close(self) -> None:
        """End the wait and drop the timer and who is to be told, for good."""
        self._on_expired = _nobody
        self._closed = True
        self._since = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        left_s = self._since + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(min(left_s, self._tick_s), self._look)
            return
        self._on_expired()
