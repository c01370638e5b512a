"""What must hold at every moment, looked at whenever a request reaches a node or the clock moves."""

from typing import TYPE_CHECKING

from sollol.gateway.admission import TICK_S
from sollol.scheduling.queue import Waiting
from sollol.scheduling.scheduler import Scheduler
from sollol.types import NodeState, NodeView, RouteRequest
from sollol.wire.names import model_key
from tests.deterministic.client import Client, End
from tests.deterministic.failures import FAILURES
from tests.deterministic.generation import Generation
from tests.deterministic.loop import GRID_S, TICKS_A_SECOND
from tests.deterministic.node import TEMPLATE_TICKS, SimulatedNode
from tests.deterministic.states import States

if TYPE_CHECKING:
    from tests.deterministic.world import World

TICK_TICKS = round(TICK_S * TICKS_A_SECOND)
PATIENCE_TICKS = 3 * TICK_TICKS
"""Three ticks of the scheduler."""


class Watch:
    """The checks of one run that look at single moments.

    Attributes:
        attempts: what reached nodes of each request, in order.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.attempts: dict[str, list[Generation]] = {}
        self.states = States(world)
        self._idle_since: dict[str, int] = {}
        self._looked_at = 0
        for node in world.nodes.values():
            node.on_arrival = self.arrived

    @property
    def scheduler(self) -> Scheduler:
        """The gateway's scheduler."""
        return self.world.gateway.admission._scheduler

    def view(self, node_id: str) -> NodeView:
        """Return what the gateway knows of a node."""
        node = self.world.gateway.registry.find(node_id)
        assert node is not None
        return node.view

    # A request reaches a node

    def arrived(self, generation: Generation) -> None:
        """Check that the request may be there."""
        client = self.world.clients[generation.request]
        before = self.attempts.setdefault(generation.request, [])
        assert client.told.end is not End.LEFT, f"{generation.request} has left, and is sent on"
        assert generation.said == client.told.text, (
            f"{generation.request} is sent on in the middle of its answer"
        )
        deadline_s = None if generation.said else client.plan.deadline_s
        if deadline_s is not None:
            late_s = self.world.loop.time() - client.came_at - deadline_s
            assert late_s <= TICK_S + GRID_S, (
                f"{generation.request} is sent on {late_s:.2f} s too late"
            )
        assert not any(one.how == "400" for one in before), f"{generation.request} was refused"
        generation.attempt = self._attempt(client)
        self.states.look()
        self.states.failures.arrived(generation)
        self._check_trial(generation)
        if generation.said:
            self._check_second_leg(generation, client)
        elif any(one.node is generation.node for one in before):
            self._check_again(generation, before[-1])
        if self.world.schedule.policy == "fastest" and not generation.node.has_forgotten:
            self._check_load(generation)
        before.append(generation)

    def _check_trial(self, generation: Generation) -> None:
        """Check that what failed gets one request at a time, and none while it is ejected.

        Unless no other node with the model may be given any: then one at a time, too. That is over once
        one has begun to be answered, until something fails again.
        """
        node, key = generation.node, generation.runner_key
        view = self.view(node.id)
        of_model = view.limited.get(key, NodeState.HEALTHY)
        for runner, state in (("", view.state), (key, of_model)):
            since = self.states.since.get((node.id, runner), 0)
            is_well = state in (NodeState.HEALTHY, NodeState.UNHEALTHY)
            if is_well or since >= self._granted_at(generation):
                continue
            beside = [
                other.by
                for other in node.generations
                if other is not generation
                and other.is_live
                and runner in ("", other.runner_key)
                and self._is_trial(other, since)
            ]
            assert not (beside and self._is_trial(generation, since)), (
                f"{node.id} {runner} is {state}, and gets {generation.by} beside {beside}"
            )
            if state is NodeState.EJECTED:
                others = [
                    each
                    for each in self.world.nodes
                    if self._is_open(each, generation.model) and not self._is_news(each, generation)
                ]
                assert not others, f"{node.id} {runner} is ejected, and {others} are not"

    def _is_trial(self, generation: Generation, since: int) -> bool:
        """Whether a request was the one to show that its runner works, and nothing has come of it."""
        others = [
            other
            for each in self.attempts.values()
            for other in each
            if other.node is generation.node
            and other.runner_key == generation.runner_key
            and other.arrived > since
        ]
        ended = [other for other in others if other.how not in ("", "done")]
        failed_at = max((o.ended for o in ended if o.how in FAILURES), default=0)
        is_proven = max((o.began for o in others), default=0) > failed_at
        since = max((o.ended for o in ended), default=since)
        return not (generation.began or is_proven) and generation.arrived > since

    def _is_open(self, node_id: str, model: str) -> bool:
        """Whether a node may be given requests for a model, be it one at a time."""
        view = self.view(node_id)
        key = model_key(model)
        if not view.is_open or key not in view.models or key in view.outvoted:
            return False
        return view.limited.get(view.runner(key)) is not NodeState.EJECTED

    def _is_news(self, node_id: str, generation: Generation) -> bool:
        """Whether what a node may be given may have changed since a request was granted its slot."""
        return self.states.changed_at.get(node_id, -1) >= self._granted_at(generation)

    def _granted_at(self, generation: Generation) -> int:
        """Return when a request that arrives was granted its slot at the earliest.

        That is in the same moment, if before some changes in it; where an answer is gone on with, the
        node was asked about its template meanwhile.
        """
        return self.world.loop.now - (TEMPLATE_TICKS if generation.said else 0)

    def _attempt(self, client: Client) -> int:
        """Return how many attempts the gateway has begun for a caller."""
        name = client.plan.name
        return len(self.world.gateway.journal.find(name)[0].outcome.tries)

    def _check_again(self, generation: Generation, before: Generation) -> None:
        """Check that a node is tried a second time only when no other is free, and twice by no attempt."""
        assert generation.attempt > before.attempt, f"{generation.request} came twice"
        attempts = self.world.gateway.journal.find(generation.request)[0].outcome.tries
        tried = {attempt.grant.lease.node_id for attempt in attempts}
        others = [
            node_id
            for node_id in self.world.nodes
            if node_id not in tried
            and self._is_free(node_id, model_key(generation.model))
            and not self._is_news(node_id, generation)
        ]
        assert not others, (
            f"{generation.request} is at {generation.node.id} again: {others} are free"
        )

    def _check_second_leg(self, generation: Generation, client: Client) -> None:
        """Check that another node goes on with an answer, and only where that is wanted."""
        name = generation.request
        assert client.plan.continues, f"{name} is gone on with, and did not ask for that"
        first = client.told.by[0].split("/")[0]
        assert generation.node.id != first, f"{name} is gone on with on {first}, where it broke off"

    def _check_load(self, generation: Generation) -> None:
        """Check that it brings no second load to a node, as far as a load's end can be predicted."""
        node, now = generation.node, self.world.loop.time()
        runner = node.runners.get(node.models.get(generation.model, ""))
        if runner is None or runner.is_resident:
            return
        known = self.scheduler._fleet.nodes[node.id].runners
        others = [
            other.model
            for digest, other in node.runners.items()
            if other is not runner and other in node.loads and known[digest].ready_at > now
        ]
        assert not others, f"{generation.request} brings a load to {node.id}, which loads {others}"

    def _is_free(self, node_id: str, model: str) -> bool:
        """Whether a node may be given a request at this moment, as far as can be told from outside."""
        if not self._may_take(node_id, model):
            return False
        return not self.scheduler._fleet.nodes[node_id].by_model[model].is_full

    def _may_take(self, node_id: str, model: str) -> bool:
        """Whether a node may be given requests, once a slot is free."""
        if not self._is_open(node_id, model):
            return False
        return self.scheduler._fleet.nodes[node_id].by_model[model].may_take

    def _eligible(self, request: RouteRequest) -> list[str]:
        """Return the nodes that a request may be given to, be they busy: first those it has not failed on."""
        nodes = [
            node_id
            for node_id in self.world.nodes
            if node_id not in request.excluded and self._may_take(node_id, request.model)
        ]
        return [node_id for node_id in nodes if node_id not in request.avoided] or nodes

    def ended(self, client: Client) -> None:
        """Check that nobody is told that there is no node while one is only ejected."""
        if not client.told.error.startswith("no node with the model"):
            return
        key = model_key(client.plan.model)
        views = self.world.gateway.registry.views()
        able = [v.id for v in views if v.state is not NodeState.UNHEALTHY and key in v.models]
        is_old = client.came_at < self.world.loop.time()  # it waited for a node that went down
        assert is_old or not able, f"{client.plan.name} is told that there is no node: {able}"

    # The clock moves

    def at_pause(self) -> None:
        """Check what holds whenever nothing is left to do at a moment."""
        for node in self.world.nodes.values():
            self._check_node(node)
        self.states.look()
        self.states.check_told()
        if self.world.loop.now - self._looked_at >= TICK_TICKS:
            self._looked_at = self.world.loop.now
            self._check_waiting()

    def _check_node(self, node: SimulatedNode) -> None:
        """Check that a node has no more to do than it should, and nothing for nobody."""
        counts: dict[str, int] = {}
        for generation in node.generations:
            if generation.wire.is_lost:
                continue
            assert self.world.clients[generation.request].told.end is None, (
                f"{generation.by} goes on for {generation.request}, which has its end"
            )
            runner = node.models.get(generation.model, "")
            counts[runner] = counts.get(runner, 0) + 1
            assert counts[runner] <= node.plan.slots, f"{node.id} has more than its slots"

    def _check_waiting(self) -> None:
        """Check that who is in the queue waits, and that nobody waits beside a free slot."""
        waiting = self.scheduler._queue.all()
        since, self._idle_since = self._idle_since, {}
        for each in waiting:
            is_there = self.world.gateway.admission.is_waiting(each.request.id)
            assert is_there, f"{each.request.id} is in the queue, and nobody waits"
            if self._could_start(each):
                name = each.request.id
                self._idle_since[name] = since.get(name, self.world.loop.now)
                waited = self.world.loop.now - self._idle_since[name]
                assert waited < PATIENCE_TICKS, f"{each.request.model} waits beside a free slot"

    def _could_start(self, waiting: Waiting) -> bool:
        """Whether a request waits for nothing.

        1. Most policies take any free slot. 2. The one that predicts may want a busy node, but not
        for longer than it meant to, if a node with the model in memory is free where nobody more urgent
        would be slowed down; 3. nor does it let
        somebody wait whom it would grant a slot if it looked.
        """
        request = waiting.request
        nodes = self._eligible(request)
        free = [node_id for node_id in nodes if self._is_free(node_id, request.model)]
        if not free:
            return False
        if self.world.schedule.policy != "fastest":
            return True
        now = self.world.loop.time()
        fleet = self.scheduler._fleet.nodes
        is_warm = any(
            request.model in self.view(node_id).resident
            and fleet[node_id].most_urgent <= request.priority
            for node_id in free
        )
        if is_warm and now - waiting.since > 2 * waiting.wait_s + 1.0:
            return True
        verdict = self.scheduler._verdict(request, waiting.key, now, is_preview=True)
        return verdict.chosen is not None
