"""What tests of the scheduler share: small views and requests, and a look at what is left behind."""

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count

from sollol.gateway.admission import Admission
from sollol.scheduling.decision import Effect, Grant, Prewarm, Refusal
from sollol.scheduling.fleet import Fleet
from sollol.scheduling.scheduler import HOUSEKEEPING_S, STRANDED_S, Scheduler
from sollol.scheduling.state import Node, Runner, Shape
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
    avoided: frozenset[str] = frozenset(),
    ask: Ask = NOTHING_KNOWN,
    takes_slot: bool = True,
) -> RouteRequest:
    """Return a request that came at a moment."""
    return RouteRequest(
        name, model, at, at + expires_s, excluded, takes_slot, priority, caller, ask, avoided
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
    assert not scheduler._fleet._left
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
    assert_books(scheduler)


def _assert_idle(node: Node) -> None:
    assert node.in_flight == 0
    assert not node.held
    assert node.most_urgent == 0
    assert node.crowd == 1.0
    assert node.claim is None, f"{node.id} still makes room for {node.claim.model}"
    assert node.leaving == ()
    for runner in node.runners.values():
        assert not runner.running
        assert not runner.backlog


def assert_books(scheduler: Scheduler) -> None:
    """Check that what is kept twice for speed is twice the same, at any moment."""
    _assert_memory(scheduler)
    _assert_homes(scheduler)
    _assert_burdens(scheduler)
    _assert_index(scheduler)
    _assert_columns(scheduler)


def _assert_memory(scheduler: Scheduler) -> None:
    counted: dict[Shape, int] = {}
    for node in scheduler._fleet.nodes.values():
        resident = {key: runner for key, runner in node.runners.items() if runner.is_resident}
        assert node.loaded == resident
        for runner in resident.values():
            counted[runner.shape] = counted.get(runner.shape, 0) + 1
    assert scheduler._fleet.shared.copies == counted


def _assert_homes(scheduler: Scheduler) -> None:
    fleet = scheduler._fleet
    homes: dict[int, set[Runner]] = {}
    for node in fleet.nodes.values():
        for runner in node.runners.values():
            for conversation in runner.conversations._known:
                homes.setdefault(conversation, set()).add(runner)
    assert {key: set(home) for key, home in fleet.shared.homes.items()} == homes


def _assert_burdens(scheduler: Scheduler) -> None:
    fleet = scheduler._fleet
    nodes = [*fleet.nodes.values(), *fleet._left.values()]
    places = [node.burden_at for node in nodes] + fleet.shared.free
    assert sorted(places) == list(range(len(fleet.shared.burdens)))
    assert all(fleet.shared.burdens[at] == 1.0 for at in fleet.shared.free)
    for node in nodes:
        assert node.in_flight == len(node.held)
        assert node.in_flight == sum(len(runner.running) for runner in node.runners.values())
        assert node.crowd == 1.0 + node.slope * node.in_flight
        assert fleet.shared.burdens[node.burden_at] == node.crowd + node.crowding
        assert node.most_urgent == max((h.request.priority for h in node.held.values()), default=0)


def _assert_index(scheduler: Scheduler) -> None:
    fleet = scheduler._fleet
    opened: dict[str, list[str]] = {}
    holders: dict[str, list[str]] = {}
    for node in fleet.nodes.values():
        for model in node.view.models:
            holders.setdefault(model, []).append(node.id)
            if _is_open(fleet, node, model):
                opened.setdefault(model, []).append(node.id)
    found = {
        model: sorted(runner.node.id for runner in columns.runners)
        for model, columns in fleet._open.items()
    }
    for model in holders:
        if model not in opened and (resort := _last_resort(fleet, model)):
            opened[model] = resort
    assert found == {model: sorted(ids) for model, ids in opened.items()}
    assert {m: sorted(ids) for m, ids in fleet._holders.items()} == {
        model: sorted(ids) for model, ids in holders.items()
    }


def _may_run(fleet: Fleet, node: Node, model: str) -> bool:
    if not fleet._is_allowed(node.id, model):
        return False
    return model not in node.view.outvoted or bool(fleet._pinned_to(model))


def _is_open(fleet: Fleet, node: Node, model: str) -> bool:
    if not node.is_open or not _may_run(fleet, node, model):
        return False
    return node.view.limited.get(node.by_model[model].key) is not NodeState.EJECTED


def _last_resort(fleet: Fleet, model: str) -> list[str]:
    """Return the nodes that are to be used because none is open."""
    return [
        node.id
        for node in fleet.nodes.values()
        if model in node.by_model and _may_run(fleet, node, model)
        if node.is_open or node.view.state is NodeState.EJECTED
    ]


def _assert_columns(scheduler: Scheduler) -> None:
    """Each runner is in one place for each of its names, with its own numbers."""
    fleet = scheduler._fleet
    places: dict[Runner, dict[object, int]] = {}
    for columns in fleet._open.values():
        for at, runner in enumerate(columns.runners):
            places.setdefault(runner, {})[columns] = at
            assert (
                columns._burden_at[at],
                columns._decode_s[at],
                columns._prefill_s[at],
                columns._load_s[at],
            ) == (
                runner.node.burden_at,
                runner.decode_s,
                runner.prefill_s,
                0.0 if runner.is_resident else runner.load_s,
            )
        assert columns.on_trial == sum(runner.is_on_trial for runner in columns.runners)
    for node in [*fleet.nodes.values(), *fleet._left.values()]:
        for runner in node.runners.values():
            assert runner.columns == places.pop(runner, {})
    assert not places


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
            elif isinstance(effect, Prewarm):
                self._take(
                    self.scheduler.load_ended(
                        effect.node_id, effect.model, self.now, has_failed=False
                    )
                )
            else:
                self.refused[effect.request_id] = self.now

    def _at(self, at: float, event: RouteRequest | Lease | None) -> None:
        heappush(self._events, (at, next(self._numbers), event))


async def acquire(admission: Admission, request: RouteRequest) -> Grant:
    """Get a slot as the gateway does: at once, or after a wait."""
    return admission.try_acquire(request) or await admission.wait(request)
