"""What must hold at the end of a run, and on the way there (``watch.py``, ``outcomes.py``)."""

import asyncio
from typing import TYPE_CHECKING

from sollol.types import NodeState
from tests.deterministic.client import Client, End, RequestPlan
from tests.deterministic.loop import GRID_S
from tests.deterministic.outcomes import (
    check_budget,
    check_continued,
    check_outcome,
    check_promise,
)
from tests.deterministic.schedule import MODELS
from tests.deterministic.watch import Watch
from tests.scheduling import assert_books, assert_clean

if TYPE_CHECKING:
    from tests.deterministic.world import World

RECOVERY_S = 6.0
"""Within this time the gateway may try every node again: the longest ejection, and some probes."""

MAX_ROUNDS = 6


class Checks:
    """The checks of one run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.watch = Watch(world)
        self.at_pause = self.watch.at_pause
        self.no_budget: set[str] = set()
        """Requests that ended while no further retry was to be had."""

    def ended(self, client: Client) -> None:
        """Take note of what is of interest when a caller has its end."""
        taken = self.world.gateway.retries.budget._taken
        if len(taken) >= self.world.schedule.retry_reserve:
            self.no_budget.add(client.plan.name)
        self.watch.ended(client)

    async def after_requests(self) -> None:
        """Check what holds once all have had their ends."""
        await asyncio.sleep(GRID_S)  # who left is heard of in the next turns
        for client in self.world.clients.values():
            attempts = self.watch.attempts.get(client.plan.name, [])
            check_outcome(self.world, client, attempts)
            check_continued(self.world, client)
            if client.plan.name not in self.no_budget:
                check_promise(self.world, client, attempts)
        check_budget(self.world, self.watch.attempts)
        self._check_idle()

    async def after_faults(self) -> None:
        """Check that the gateway is as good as new once nothing fails any more.

        Every node is tried again, as more requests come at once than the others have slots for; they
        are longer each round, so that waiting for those is worth ever less.
        """
        await asyncio.sleep(RECOVERY_S)
        for number in range(MAX_ROUNDS):
            await self._round(number)
            if self._is_well():
                break
        assert self._is_well(), [
            (view.id, view.state, view.last_error) for view in self.world.gateway.registry.views()
        ]

    async def _round(self, number: int) -> None:
        slots = sum(node.plan.slots for node in self.world.nodes.values())
        names = []
        models = [m for m in MODELS if any(m in node.models for node in self.world.nodes.values())]
        for model in models:
            for place in range(slots):
                name = f"w{number}-{model[:2]}-{place}"
                self.world.come(RequestPlan(name, 0, model, 4 * 3**number))
                names.append(name)
        await self.world.wait_answers()
        for name in names:
            told = self.world.clients[name].told
            assert told.end is End.WHOLE, f"nothing fails any more, and {name} gets {told}"
            assert told.headers["x-sollol-attempts"] == "1", f"{name} was tried several times"
        await asyncio.sleep(GRID_S)
        self._check_idle()

    def _is_well(self) -> bool:
        return all(
            view.state is NodeState.HEALTHY and not getattr(view, "limited", None)
            for view in self.world.gateway.registry.views()
        )

    def _check_idle(self) -> None:
        """Check that nothing goes on for anybody."""
        statistics = self.world.gateway.admission.statistics()
        assert statistics.total_in_flight == 0, statistics
        assert statistics.queue_length == 0, statistics
        assert not self.world.gateway.admission._waiters
        assert abs(self.world.gateway.retries.budget.in_flight) < 1e-6
        for node in self.world.nodes.values():
            going_on = [g.by for g in node.generations if not g.wire.is_lost]
            assert not going_on, f"{going_on} go on for nobody"
        for known in self.world.gateway.registry.nodes():
            connections = known.connections.statistics()
            assert connections.open == connections.idle, connections

    def at_end(self) -> None:
        """Check that nothing is left once the gateway has stopped."""
        gateway = self.world.gateway
        scheduler = self.watch.scheduler
        assert_books(scheduler)
        assert_clean(scheduler, self.world.loop.time())
        assert not gateway.journal._open
        for node in gateway.registry.nodes():
            assert node.connections.statistics().open == 0
        for each in self.world.nodes.values():
            assert not each.generations, f"{each.id} goes on"
            assert each.has_erred or scheduler._fleet.nodes[each.id].failure_share == 0.0
