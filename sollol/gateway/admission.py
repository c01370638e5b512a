"""The asynchronous side of the scheduler: callers wait here until it grants them a slot."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from sollol.scheduling.decision import Decision, Effect, Grant, Prewarm, Refusal, Statistics
from sollol.scheduling.overview import NodeEstimate, Queued, SlowModel
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Comer, Lease, Measured, NodeView, RouteRequest

TICK_S = 0.25
"""How late a queue time-out may be noticed."""


class Admission:
    """Feeds events to the scheduler and carries its effects to the callers that wait.

    ``draining`` is set once the gateway stops.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Callable[[], float],
        prewarm: Callable[[Prewarm], None] = lambda _: None,
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._prewarm = prewarm
        self.draining = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[Grant]] = {}
        self._idle: dict[str, asyncio.Event] = {}

    def try_acquire(self, request: RouteRequest) -> Grant | None:
        """Return a grant if there is one at once; else the request is queued: :meth:`wait` for it next.

        Whoever gets a grant gives its lease back with :meth:`release`.

        Raises:
            SollolError: the scheduler refused the request.
        """
        for effect in self._scheduler.submit(request, self._clock()):
            if isinstance(effect, Grant):
                return effect
            if isinstance(effect, Refusal) and effect.request_id == request.id:
                raise effect.error
            self._deliver((effect,))  # somebody less urgent made room in the queue
        return None

    def take_idle(self, request: RouteRequest) -> Grant | None:
        """Return a grant of a slot that is free at once, without a load; else nothing happens."""
        return self._scheduler.take_idle(request, self._clock())

    def spare(self, request: RouteRequest) -> Grant | None:
        """Return a grant for a second copy of a request; None if there is no spare slot at this moment."""
        return self._scheduler.spare(request, self._clock())

    async def wait(self, request: RouteRequest) -> Grant:
        """Wait for the grant of a request that was queued just now.

        Raises:
            SollolError: the scheduler refused the request after it waited.
        """
        waiter: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._waiters[request.id] = waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            self._abandon(request.id, waiter)
            raise
        finally:
            del self._waiters[request.id]

    def loaded(self, lease: Lease) -> None:
        """Tell the scheduler that the model which a lease loads is in memory."""
        self._deliver(self._scheduler.loaded(lease, self._clock()))

    def begun(self, lease: Lease) -> None:
        """Tell the scheduler that the request of a lease, on trial, begins to be answered."""
        self._deliver(self._scheduler.begun(lease, self._clock()))

    def is_loading(self, lease: Lease) -> bool:
        """Whether a request may be waiting for its model to be loaded."""
        return self._scheduler.is_loading(lease, self._clock())

    def is_node_loading(self, node_id: str) -> bool:
        """Whether a node is loading any model."""
        return self._scheduler.is_node_loading(node_id, self._clock())

    def has_company(self, lease: Lease) -> bool:
        """Whether other requests run on the same model and node."""
        return self._scheduler.has_company(lease)

    def full(self, lease: Lease) -> None:
        """Tell the scheduler that a node had no room for the request of a lease."""
        self._scheduler.full(lease, self._clock())

    def release(
        self, lease: Lease, measured: Measured | None = None, *, has_failed: bool = False
    ) -> None:
        """Give a slot back; whoever waits for it gets it now.

        Args:
            measured: what is known of the answer, if it was whole.
            has_failed: through a fault of the node.
        """
        effects = self._scheduler.release(lease, self._clock(), measured, has_failed=has_failed)
        if effects:
            self._deliver(effects)
        if lease.node_id in self._idle and not self.in_flight(lease.node_id):
            self._idle[lease.node_id].set()

    def node_changed(self, view: NodeView) -> None:
        """Tell the scheduler what is known of a node."""
        self._deliver(self._scheduler.node_changed(view, self._clock()))

    def node_removed(self, node_id: str) -> None:
        """Tell the scheduler that a node is gone."""
        self._scheduler.node_removed(node_id)

    def load_ended(self, effect: Prewarm, *, has_failed: bool) -> None:
        """Tell the scheduler how carrying out a prewarm ended."""
        node_id, model, now = effect.node_id, effect.model, self._clock()
        self._deliver(self._scheduler.load_ended(node_id, model, now, has_failed=has_failed))

    def unloaded(self, model: str) -> None:
        """Tell the scheduler that a caller had a model unloaded."""
        self._scheduler.unloaded(model)

    def make_way(self, sizes: Mapping[str, int], needed_bytes: int, comer: Comer) -> list[str]:
        """Have less urgent ones leave that wait; return the ids of those that do.

        Args:
            sizes: request id -> the bytes that it holds.
            needed_bytes: how much is to become free; where less would, nobody leaves.
        """
        refusals = self._scheduler.make_way(sizes, needed_bytes, comer, self._clock())
        self._deliver(refusals)
        return [refusal.request_id for refusal in refusals]

    def retry_after_s(self) -> float:
        """Return after how many seconds one that is refused for want of room may come again."""
        return self._scheduler.retry_after_s()

    def drain(self) -> None:
        """Refuse everybody who waits or would have to: the gateway stops."""
        self.draining.set()
        self._deliver(self._scheduler.drain())

    def rules_changed(self) -> None:
        """Tell the scheduler that other nodes may run a model."""
        self._deliver(self._scheduler.rules_changed(self._clock()))

    def in_flight(self, node_id: str) -> int:
        """Return how many requests are on a node."""
        return self.statistics().in_flight.get(node_id, 0)

    async def wait_idle(self, node_id: str) -> None:
        """Wait until no request is on a node; for one caller at a time for each node."""
        idle = self._idle.setdefault(node_id, asyncio.Event())
        try:
            while self.in_flight(node_id):
                idle.clear()
                await idle.wait()
        finally:
            del self._idle[node_id]

    async def run(self) -> None:
        """Let the scheduler notice that time passes, be it that nobody waits; runs until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self._deliver(self._scheduler.tick(self._clock()))

    def statistics(self) -> Statistics:
        """The scheduler's counts."""
        return self._scheduler.statistics()

    def is_waiting(self, request_id: str) -> bool:
        """Whether a request waits for a slot at this moment."""
        waiter = self._waiters.get(request_id)
        return waiter is not None and not waiter.done()

    def queued(self, most: int) -> list[Queued]:
        """Return who waits, the next one first."""
        return self._scheduler.queued(self._clock(), most)

    def find_queued(self, request_id: str) -> Queued | None:
        """Return what may be seen of a request that waits; None when it does not."""
        return self._scheduler.find_queued(request_id, self._clock())

    def preview(self, request: RouteRequest) -> Decision:
        """Return what would be decided for a request, without doing it.

        Raises:
            ModelNotFound, NoNodeAvailable: it would be refused.
        """
        return self._scheduler.preview(request, self._clock())

    def estimates(self) -> list[NodeEstimate]:
        """Return what is known of every node."""
        return self._scheduler.estimates()

    def slow(self) -> list[SlowModel]:
        """Return the models that are far slower than they can be, and those that were."""
        return self._scheduler.slow()

    def answered_at(self, node_id: str) -> dict[str, float]:
        """Return when each runner of a node last gave a caller a whole answer."""
        return self._scheduler.answered_at(node_id)

    def _abandon(self, request_id: str, waiter: "asyncio.Future[Grant]") -> None:
        """Undo a wait whose caller left, possibly in the same tick as it was granted."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result().lease)
            return
        self._scheduler.cancel(request_id)

    def _deliver(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Prewarm):
                self._prewarm(effect)
                continue
            if isinstance(effect, Refusal):
                waiter = self._waiters.get(effect.request_id)
                if waiter is not None and not waiter.done():
                    waiter.set_exception(effect.error)
                continue
            waiter = self._waiters.get(effect.lease.request_id)
            if waiter is None or waiter.done():  # the caller left and will not take it
                self.release(effect.lease)
                continue
            waiter.set_result(effect)
