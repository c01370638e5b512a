"""How the sequences that a node generates share its accelerator."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from sollol.bench.virtual.loop import EventLoop, Timer


class Decoder:
    """Processor sharing: each further sequence slows all of them by the same share.

    A sequence's work is the seconds it takes when alone. The work that each has done grows alike,
    so one sum stands for all, and the next to end is the one with the least of it.
    """

    def __init__(self, loop: EventLoop, batch_slowdown: float) -> None:
        self._loop = loop
        self._batch_slowdown = batch_slowdown
        self._slowdown = 1.0
        self._done_s = 0.0
        self._since = 0.0
        self._sequences: list[tuple[float, int, Callable[[], object]]] = []
        self._next = count()
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, work_s: float, ended: Callable[[], object]) -> None:
        """Begin a sequence."""
        self._advance()
        heappush(self._sequences, (self._done_s + work_s, next(self._next), ended))
        self._wake_for_next()

    def set_slowdown(self, slowdown: float) -> None:
        """Change how many times longer everything takes from here on."""
        self._advance()
        self._slowdown = slowdown
        self._wake_for_next()

    def _pace(self) -> float:
        """Seconds for a second of work."""
        return (1 + self._batch_slowdown * (len(self._sequences) - 1)) * self._slowdown

    def _advance(self) -> None:
        if self._sequences:
            self._done_s += (self._loop.now - self._since) / self._pace()
        self._since = self._loop.now

    def _wake_for_next(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sequences:
            left_s = max(0.0, self._sequences[0][0] - self._done_s)
            self._timer = self._loop.after(left_s * self._pace(), self._end_first)

    def _end_first(self) -> None:
        self._advance()
        self._done_s, _, ended = heappop(self._sequences)
        self._wake_for_next()
        ended()
