"""The only queue: requests that wait for a slot.

Its order is one number for each request, fixed when it comes: ``start - priority * ageing_s``. A
level of priority is worth ``ageing_s`` seconds of waiting, without bound: a request of priority 1
goes before every one of priority 10 that came more than nine times ``ageing_s`` after it.

``start`` is the arrival, except for a caller that asks for more than its share: each of its requests
starts no earlier than the one before it would be done, had the caller its share of the slots
(start-time fair queueing). So a thousand requests at once do not stand before the next caller's one.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from heapq import merge
from itertools import count

import msgspec

from sollol.scheduling.state import Runner
from sollol.types import RouteRequest


class Waiting(msgspec.Struct, eq=False):
    """A request that waits; smaller ``key`` first, then the one that came first."""

    key: float
    number: int
    request: RouteRequest
    since: float
    runner: Runner | None = None
    """Where it is to run, as it looked last."""
    service_s: float = 0.0
    """How long it will hold a slot there."""
    wait_s: float = 0.0
    """How long it was to wait there when it was last looked at."""

    def __lt__(self, other: "Waiting") -> bool:
        """Compare places in the queue."""
        return (self.key, self.number) < (other.key, other.number)


class FairClock:
    """When each caller's next request of a priority starts, by what it has asked for already."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], float] = {}

    def start(self, request: RouteRequest, now: float) -> float:
        """Return when a request's turn begins; now, or later for a caller over its share."""
        return max(now, self._next.get((request.caller, request.priority), now))

    def charge(self, request: RouteRequest, share_s: float, now: float) -> None:
        """Count the time that a request takes of all slots together."""
        self._next[(request.caller, request.priority)] = self.start(request, now) + share_s

    def forget_past(self, now: float) -> None:
        """Drop the callers that are within their share."""
        past = [key for key, start in self._next.items() if start <= now]
        for key in past:
            del self._next[key]


class WaitQueue:
    """Requests by model in the order of their keys; bounded by ``max_length``."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._by_model: dict[str, list[Waiting]] = {}
        self._by_id: dict[str, Waiting] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    @property
    def is_full(self) -> bool:
        """Whether another request would exceed the bound."""
        return len(self._by_id) >= self.max_length

    def push(self, request: RouteRequest, key: float, now: float) -> Waiting:
        """Put a request in its place; its id must not be waiting already.

        Raises:
            ValueError: the id is in the queue.
        """
        if request.id in self._by_id:
            raise ValueError(f"request {request.id} is queued already")
        waiting = Waiting(key, next(self._numbers), request, now)
        self._by_id[request.id] = waiting
        insort(self._by_model.setdefault(request.model, []), waiting)
        return waiting

    def find(self, request_id: str) -> Waiting | None:
        """Return the entry of a request that waits."""
        return self._by_id.get(request_id)

    def remove(self, request_id: str) -> Waiting | None:
        """Take a request out wherever it stands; None when it does not wait."""
        waiting = self._by_id.pop(request_id, None)
        if waiting is None:
            return None
        entries = self._by_model[waiting.request.model]
        del entries[bisect_left(entries, waiting)]
        if not entries:
            del self._by_model[waiting.request.model]
        return waiting

    def last(self) -> Waiting | None:
        """Return the one whose turn comes last of all."""
        return max((entries[-1] for entries in self._by_model.values()), default=None)

    def waiting(self, model: str) -> list[Waiting]:
        """Return the requests for a model, the next one first; a copy."""
        return list(self._by_model.get(model, ()))

    def in_order(self, models: Collection[str]) -> Iterator[Waiting]:
        """Return the requests for any of the models, the next one first; they may be removed."""
        lists = [list(self._by_model[model]) for model in models if model in self._by_model]
        return iter(lists[0]) if len(lists) == 1 else merge(*lists)

    def ahead(self, request_id: str) -> int:
        """Return how many requests for the same model go before one that waits."""
        waiting = self._by_id[request_id]
        return bisect_left(self._by_model[waiting.request.model], waiting)

    def models(self) -> tuple[str, ...]:
        """The models that somebody waits for."""
        return tuple(self._by_model)

    def all(self) -> list[Waiting]:
        """Return everybody who waits, the next one first."""
        return sorted(self._by_id.values())

    def expired(self, now: float) -> list[Waiting]:
        """Return those whose ``expires_at`` has come; they stay in until removed."""
        return [w for w in self._by_id.values() if w.request.expires_at <= now]
