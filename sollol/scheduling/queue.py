"""The only queue: requests that wait for a slot.

Its order is one number for each request, fixed when it comes: ``start - priority * ageing_s``. A
level of priority is worth ``ageing_s`` seconds of waiting, without bound: a request of priority 1
goes before every one of priority 10 that came more than nine times ``ageing_s`` after it.

``start`` is the arrival, except for a caller that asks for more than its share (``fairness.py``).
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import count

from sollol.scheduling.state import Options, Runner
from sollol.structs import Unequal
from sollol.types import RouteRequest


class Waiting(Unequal):
    """A request that waits; smaller ``key`` first, then the one that came first."""

    key: float
    number: int
    request: RouteRequest
    since: float
    runner: Runner | None = None
    """Where it is to run, as it looked last."""
    service_s: float = 0.0
    """How long it will hold a slot there."""
    share_s: float = 0.0
    """What its caller was charged for it."""
    wait_s: float = 0.0
    """How long it was to wait there when it was last looked at."""

    def __lt__(self, other: "Waiting") -> bool:
        """Compare places in the queue."""
        return (self.key, self.number) < (other.key, other.number)


Kind = tuple[frozenset[str], frozenset[str], Options, int, frozenset[str]]


def kind_of(request: RouteRequest) -> Kind:
    """Return what decides, besides the model, on which nodes a request can start.

    Where the first of a kind cannot start, those behind it cannot either; those of another may.
    Prompts are told apart by their length to a factor of four: a context must hold them.
    """
    ask, length = request.ask, request.ask.prompt_bytes.bit_length() // 2
    return request.excluded, ask.needs, ask.options, length, request.avoided


class WaitQueue:
    """Requests by model and kind in the order of their keys; bounded by ``max_length``."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._by_model: dict[str, dict[Kind, list[Waiting]]] = {}
        self._by_id: dict[str, Waiting] = {}
        self._by_caller: dict[str, list[Waiting]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_id

    @property
    def is_full(self) -> bool:
        """Whether another request would exceed the bound."""
        return len(self._by_id) >= self.max_length

    def rival(self, caller: str, max_share: float) -> Waiting | None:
        """Return the one that has to leave for another request of a caller: the last it competes with.

        A caller with its share of the places competes with itself while others wait; any other one
        with all. Ask only where :meth:`has_place` is false; None where the queue holds nobody.
        """
        if self._is_over(caller, max_share):
            return self._by_caller[caller][-1]
        return self.last()

    def has_place(self, caller: str, max_share: float) -> bool:
        """Whether another request of a caller may wait without one that leaves for it."""
        return not self.is_full and not self._is_over(caller, max_share)

    def _is_over(self, caller: str, max_share: float) -> bool:
        held = len(self._by_caller.get(caller, ()))
        return 0 < held < len(self._by_id) and held >= max_share * self.max_length

    def push(self, request: RouteRequest, key: float, now: float) -> Waiting:
        """Put a request in its place; its id must not be waiting already."""
        waiting = Waiting(key, next(self._numbers), request, now)
        self._by_id[request.id] = waiting
        insort(self._by_caller.setdefault(request.caller, []), waiting)
        kinds = self._by_model.setdefault(request.model, {})
        insort(kinds.setdefault(kind_of(request), []), waiting)
        return waiting

    def find(self, request_id: str) -> Waiting | None:
        """Return the entry of a request that waits."""
        return self._by_id.get(request_id)

    def remove(self, request_id: str) -> Waiting | None:
        """Take a request out wherever it stands; None when it does not wait."""
        waiting = self._by_id.pop(request_id, None)
        if waiting is None:
            return None
        model, kind = waiting.request.model, kind_of(waiting.request)
        kinds = self._by_model[model]
        entries = kinds[kind]
        del entries[bisect_left(entries, waiting)]
        if not entries:
            del kinds[kind]
        if not kinds:
            del self._by_model[model]
        own = self._by_caller[waiting.request.caller]
        del own[bisect_left(own, waiting)]
        if not own:
            del self._by_caller[waiting.request.caller]
        return waiting

    def last(self) -> Waiting | None:
        """Return the one whose turn comes last of all."""
        rows = (row for kinds in self._by_model.values() for row in kinds.values())
        return max((row[-1] for row in rows), default=None)

    def waiting(self, model: str, excluded: frozenset[str]) -> list[Waiting]:
        """Return the requests for a model that may not go to some nodes, the next one first."""
        kinds = self._by_model.get(model, {})
        return sorted(w for kind, row in kinds.items() if kind[0] == excluded for w in row)

    def wants(self) -> dict[tuple[str, frozenset[str]], None]:
        """Return the models that are waited for, each with the nodes that it may not run on."""
        by_model = self._by_model
        return dict.fromkeys((model, kind[0]) for model in by_model for kind in by_model[model])

    def rows(self, models: Iterable[str]) -> list["Row"]:
        """Return the requests for some models, those of each kind in a row."""
        by_model = self._by_model
        return [Row(row) for m in models if m in by_model for row in by_model[m].values()]

    def models(self) -> tuple[str, ...]:
        """The models that somebody waits for."""
        return tuple(self._by_model)

    def ahead(self, waiting: Waiting) -> int:
        """Return how many, of all that wait, go before one."""
        rows = (row for kinds in self._by_model.values() for row in kinds.values())
        return sum(bisect_left(row, waiting) for row in rows)

    def all(self) -> list[Waiting]:
        """Return everybody who waits, the next one first."""
        return sorted(self._by_id.values())

    def expired(self, now: float) -> list[Waiting]:
        """Return those whose ``expires_at`` has come; they stay in until removed."""
        return [w for w in self._by_id.values() if w.request.expires_at <= now]


class Row:
    """Those of a kind in their order, while they are looked at; rows compare by who is next."""

    __slots__ = ("_at", "_row", "misses")

    def __init__(self, row: list[Waiting]) -> None:
        self._row = row
        self._at = 0
        self.misses = 0
        """How many were looked at that cannot start."""

    @property
    def next(self) -> Waiting:
        """Who is to be looked at."""
        return self._row[self._at]

    @property
    def is_done(self) -> bool:
        """Whether all were looked at."""
        return self._at >= len(self._row)

    def skip(self) -> None:
        """Leave the next one in its place. One that is taken out of the queue needs no skip."""
        self._at += 1

    def __lt__(self, other: "Row") -> bool:
        """Compare those who are next."""
        return self.next < other.next
