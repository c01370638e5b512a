"""An event loop that lives in the time of simulated nodes."""

import asyncio
import selectors


class _ScaledSelector(selectors.DefaultSelector):
    def __init__(self, time_scale: float) -> None:
        super().__init__()
        self._time_scale = time_scale

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout * self._time_scale)


class ScaledLoop(asyncio.SelectorEventLoop):
    """Its seconds take ``time_scale`` real ones: all timers, timeouts and clocks of a program at once.

    What a gateway on it decides by time is so in the same proportion to simulated nodes with that
    ``time_scale`` as it is to real ones in real time.
    """

    def __init__(self, time_scale: float) -> None:
        self._time_scale = time_scale
        super().__init__(_ScaledSelector(time_scale))

    def time(self) -> float:
        """Return the seconds of the nodes' time since some moment."""
        return super().time() / self._time_scale
