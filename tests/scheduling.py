"""What tests of the scheduler share: small views and requests, and a look at what is left behind."""

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count

from sollol.scheduling.decision import Effect, Grant, Refusal
from sollol.scheduling.scheduler import HOUSEKEEPING_S, STRANDED_S, Scheduler
from sollol.scheduling.state import Node
from sollol.types import (
    NOTHING_KNOWN,
    Ask,
    Engine,
    Lease,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
)

GB = 10**9


def view(
    name: str,
    models: Mapping[str, int] | Iterable[str],
    *,
    slots: int = 1,
    resident: Iterable[str] = (),
    memory_bytes: int | None = None,
    state: NodeState = NodeState.HEALTHY,
) -> NodeView:
    """Return a node with models of some bytes each, a gigabyte if nothing is said."""
    sizes = models if isinstance(models, Mapping) else dict.fromkeys(models, GB)
    return NodeView(
        id=name,
        url=f"http://{name}",
        engine=Engine.OLLAMA,
        state=state,
        slots=slots,
        models={model: Model(model, model, size_bytes=size) for model, size in sizes.items()},
        resident={
            model: Resident(model, model, size_bytes=sizes[model], vram_bytes=sizes[model])
            for model in resident
        },
        memory_bytes=memory_bytes,
    )


def asks(
    name: str,
    model: str = "m",
    at: float = 0.0,
    *,
    priority: int = 5,
    caller: str = "",
    expires_s: float = 1e6,
    excluded: frozenset[str] = frozenset(),
    ask: Ask = NOTHING_KNOWN,
) -> RouteRequest:
    """Return a request that came at a moment."""
    return RouteRequest(
        name, model, at, at + expires_s, excluded, priority=priority, caller=caller, ask=ask
    )


def leases(effects: Iterable[Effect]) -> list[Lease]:
    """Return the leases that were granted."""
    return [effect.lease for effect in effects if isinstance(effect, Grant)]


def refused(effects: Iterable[Effect]) -> list[str]:
    """Return the ids of the requests that were refused."""
    return [effect.request_id for effect in effects if isinstance(effect, Refusal)]


def nodes_of(scheduler: Scheduler) -> dict[str, Node]:
    """Return what the scheduler keeps of the nodes that it knows."""
    return scheduler._fleet.nodes


def assert_clean(scheduler: Scheduler, now: float, gone: Iterable[Node] = ()) -> None:
    """Check that a scheduler which nobody uses any more remembers nobody.

    Args:
        now: a moment after the last event; housekeeping runs then.
        gone: nodes that were removed while in use.
    """
    scheduler.tick(now)
    scheduler.tick(now + max(HOUSEKEEPING_S, STRANDED_S) + 1.0)
    queue, held = scheduler._queue, scheduler._leases
    assert not len(queue)
    assert not queue._by_model
    assert not held._held
    assert not held.in_flight
    assert not held._by_caller
    assert not scheduler._held_back
    assert not scheduler._stranded_since
    nodes = scheduler._fleet.nodes
    for node in [*nodes.values(), *gone]:
        _assert_idle(node)
    _assert_copies(scheduler)
    _assert_index(scheduler)


def _assert_idle(node: Node) -> None:
    assert node.in_flight == 0
    assert node.claim is None, f"{node.id} still makes room for {node.claim.model}"
    assert node.leaving == ()
    for runner in node.runners.values():
        assert not runner.running
        assert not runner.backlog


def _assert_copies(scheduler: Scheduler) -> None:
    counted: dict[str, int] = {}
    for node in scheduler._fleet.nodes.values():
        for runner in node.resident():
            counted[runner.key] = counted.get(runner.key, 0) + 1
    assert {key: n for key, n in scheduler._fleet.copies.items() if n} == counted


def _assert_index(scheduler: Scheduler) -> None:
    fleet = scheduler._fleet
    opened: dict[str, list[str]] = {}
    holders: dict[str, list[str]] = {}
    for node in fleet.nodes.values():
        for model in node.view.models:
            holders.setdefault(model, []).append(node.id)
            if node.is_open and model not in node.view.outvoted:
                opened.setdefault(model, []).append(node.id)
    found = {model: sorted(r.node.id for r in runners) for model, runners in fleet._open.items()}
    assert found == {model: sorted(ids) for model, ids in opened.items()}
    assert {m: sorted(ids) for m, ids in fleet._holders.items()} == {
        model: sorted(ids) for model, ids in holders.items()
    }


class Play:
    """Plays requests that come at given moments; each grant is released after its service time."""

    def __init__(
        self,
        scheduler: Scheduler,
        service_s: Callable[[Lease], float] = lambda lease: lease.predicted_s,
        tick_s: float = 0.25,
    ) -> None:
        self.scheduler = scheduler
        self.granted: dict[str, tuple[float, Lease]] = {}
        """Request -> when it started, and where."""
        self.refused: dict[str, float] = {}
        self.came: dict[str, float] = {}
        self.now = 0.0
        self.watch: Callable[[], None] = lambda: None
        """Called after each event."""
        self._service_s = service_s
        self._tick_s = tick_s
        self._events: list[tuple[float, int, RouteRequest | Lease | None]] = []
        self._numbers = count()

    def run(self, requests: Iterable[RouteRequest], until_s: float) -> None:
        """Play until a moment, or until all is done."""
        for request in requests:
            self._at(request.arrived_at, request)
        self._at(self._tick_s, None)
        while self._events and self._events[0][0] <= until_s:
            self.now, _, event = heappop(self._events)
            self._happen(event)
            self.watch()

    def wait_s(self, request_id: str) -> float:
        """Return how long a request waited; infinity if it still does, or was refused."""
        if request_id not in self.granted:
            return float("inf")
        return self.granted[request_id][0] - self.came[request_id]

    def _happen(self, event: RouteRequest | Lease | None) -> None:
        if isinstance(event, RouteRequest):
            self.came[event.id] = self.now
            self._take(self.scheduler.submit(event, self.now))
        elif isinstance(event, Lease):
            self._take(self.scheduler.release(event, self.now))
        else:
            self._take(self.scheduler.tick(self.now))
            if self._events:
                self._at(self.now + self._tick_s, None)

    def _take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                lease = effect.lease
                assert lease.request_id not in self.granted
                self.granted[lease.request_id] = (self.now, lease)
                self._at(self.now + self._service_s(lease), lease)
            else:
                self.refused[effect.request_id] = self.now

    def _at(self, at: float, event: RouteRequest | Lease | None) -> None:
        heappush(self._events, (at, next(self._numbers), event))
