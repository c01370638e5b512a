"""Packs the units of a model, in their order, onto workers: how few suffice, and how evenly. Pure.

llama.cpp gives each worker one run of layers, so the question is which workers, in which order,
and where each run ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sollol.sharding.memory import MemoryModel

MOST_WORKERS = 12
"""Workers that are considered; llama.cpp takes 16, and every one more makes each token slower."""
_EVENNESS = 256
"""How finely the part of the memory is searched that all workers are filled to."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Workers in their order, by index, and where the units of each end."""

    workers: tuple[int, ...]
    ends: tuple[int, ...]


class Packer:
    """Packs one model; ``first`` units stay elsewhere."""

    def __init__(self, memory: MemoryModel, first: int = 0) -> None:
        self._memory = memory
        self._first = first
        self._count = len(memory.facts.units)
        self._known: dict[tuple[int, int], int] = {}

    def smallest_sets(self, memories: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Yield every smallest set of workers that holds everything, each in an order that does.

        Exact, for at most ``MOST_WORKERS`` memories: of each set it is known how many units it
        holds in its best order, and a longer run of units never makes the rest harder to place.
        """
        reach = self._reach(memories)
        enough = [mask for mask, (end, _) in enumerate(reach) if end == self._count]
        fewest = min((mask.bit_count() for mask in enough), default=0)
        for mask in enough:
            if mask.bit_count() == fewest:
                yield _order(reach, mask)

    def least_bytes(self, count: int) -> int:
        """Return the least memory with which ``count`` equal workers hold everything."""
        low, high = 0, self._memory.device(self._first, self._count).total_bytes
        while low < high:
            middle = (low + high) // 2
            at = self._first
            for _ in range(count):
                at = self._fill(at, middle)
            low, high = (low, middle) if at == self._count else (middle + 1, high)
        return high

    def evenly(self, workers: Sequence[int], memories: Sequence[int]) -> Packing:
        """Return where each worker's units end when all are filled to the same part.

        Args:
            workers: indices into ``memories``, in an order in which everything fits.
        """
        low, high = 0, _EVENNESS
        while high - low > 1:
            middle = (low + high) // 2
            ends = self._ends(workers, memories, middle)
            low, high = (low, middle) if ends[-1] == self._count else (middle, high)
        return Packing(tuple(workers), self._ends(workers, memories, high))

    def _ends(self, workers: Sequence[int], memories: Sequence[int], part: int) -> tuple[int, ...]:
        ends, at = [], self._first
        for worker in workers:
            at = self._fill(at, memories[worker] * part // _EVENNESS)
            ends.append(at)
        return tuple(ends)

    def _reach(self, memories: Sequence[int]) -> list[tuple[int, int]]:
        """Return for each set, as a bit mask, how far it reaches and which worker is the last."""
        reach = [(self._first, -1)]
        for mask in range(1, 1 << len(memories)):
            best = (-1, -1)
            for last, memory in enumerate(memories):
                if mask >> last & 1:
                    end = self._fill(reach[mask ^ 1 << last][0], memory)
                    best = max(best, (end, -last), key=lambda pair: pair[0])
            reach.append((best[0], -best[1]))
        return reach

    def _fill(self, start: int, memory_bytes: int) -> int:
        """Return the end of the longest run from ``start`` that fits."""
        key = (start, memory_bytes)
        if key not in self._known:
            low, high = start, self._count
            while low < high:
                middle = (low + high + 1) // 2
                is_fitting = self._memory.device(start, middle).total_bytes <= memory_bytes
                low, high = (middle, high) if is_fitting else (low, middle - 1)
            self._known[key] = low
        return self._known[key]


def _order(reach: Sequence[tuple[int, int]], mask: int) -> tuple[int, ...]:
    workers: list[int] = []
    while mask:
        last = reach[mask][1]
        workers.append(last)
        mask ^= 1 << last
    return tuple(reversed(workers))
