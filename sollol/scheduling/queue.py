"""The only queue: requests that wait for a slot, in arrival order for each model."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import merge
from operator import attrgetter

from sollol.types import RouteRequest


class WaitQueue:
    """Requests in arrival order, found by model or by id in O(1); bounded by ``max_length``."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._by_model: dict[str, OrderedDict[str, RouteRequest]] = {}
        self._models: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._models

    @property
    def is_full(self) -> bool:
        """Whether another request would exceed the bound."""
        return len(self._models) >= self.max_length

    def push(self, request: RouteRequest) -> None:
        """Append a request; its id must not be waiting already.

        Raises:
            ValueError: the id is in the queue.
        """
        if request.id in self._models:
            raise ValueError(f"request {request.id} is queued already")
        self._models[request.id] = request.model
        self._by_model.setdefault(request.model, OrderedDict())[request.id] = request

    def remove(self, request_id: str) -> RouteRequest | None:
        """Take a request out wherever it stands; None when it does not wait."""
        model = self._models.pop(request_id, None)
        if model is None:
            return None
        waiting = self._by_model[model]
        request = waiting.pop(request_id)
        if not waiting:
            del self._by_model[model]
        return request

    def waiting(self, model: str) -> tuple[RouteRequest, ...]:
        """The requests for a model, the longest waiting first."""
        return tuple(self._by_model.get(model, {}).values())

    def waiting_for_any(self, models: Iterable[str]) -> Iterator[RouteRequest]:
        """The requests for any of the models, the longest waiting first; they may be removed."""
        return merge(*map(self.waiting, models), key=attrgetter("arrived_at"))

    def models(self) -> tuple[str, ...]:
        """The models that somebody waits for."""
        return tuple(self._by_model)

    def expired(self, now: float) -> tuple[RouteRequest, ...]:
        """The requests whose ``expires_at`` has come; they stay in until removed."""
        return tuple(
            request
            for waiting in self._by_model.values()
            for request in waiting.values()
            if request.expires_at <= now
        )
