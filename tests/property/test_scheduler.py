"""Invariants of the scheduler under any sequence of events."""

from dataclasses import replace
from random import Random

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import booleans, dictionaries, frozensets, integers, sampled_from

from sollol.scheduling.decision import Effect, Grant, Prewarm
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Engine, Lease, Model, NodeState, NodeView, RouteRequest

NODES = ("a", "b", "c")
MODELS = ("m", "n", "o")
DIGESTS = ("", "d", "e")


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a scheduler and keeps its own books beside it."""

    policy = "fastest"

    def __init__(self) -> None:
        super().__init__()
        self.sut = Scheduler(SchedulerLimits(5, self.policy), Random(0))
        self.now = 0.0
        self.next_id = 0
        self.views: dict[str, NodeView] = {}
        self.waiting: dict[str, RouteRequest] = {}
        self.held: dict[int, Lease] = {}
        self.asked: dict[str, RouteRequest] = {}
        self.spare: list[Lease] = []
        self.loads: list[Prewarm] = []

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                lease = effect.lease
                assert lease.id not in self.held
                assert lease.request_id in self.waiting, "granted twice, or never asked for"
                del self.waiting[lease.request_id]
                self.held[lease.id] = lease
                self.spare.append(lease)
                self.check(lease)
            elif isinstance(effect, Prewarm):
                self.check_prewarm(effect)
            else:
                assert effect.request_id in self.waiting
                del self.waiting[effect.request_id]

    def runner(self, view: NodeView, model: str) -> str:
        return view.models[model].digest or model

    def running(self, view: NodeView, model: str) -> int:
        """Count the leases on the runner of a model."""
        runner = self.runner(view, model)
        return sum((held.node_id, held.runner) == (view.id, runner) for held in self.held.values())

    def check(self, lease: Lease) -> None:
        request, view = self.asked[lease.request_id], self.views[lease.node_id]
        assert request.model not in view.outvoted
        if request.takes_slot:
            assert lease.runner == self.runner(view, request.model)
            assert self.running(view, request.model) <= view.slots

    def check_prewarm(self, effect: Prewarm) -> None:
        view = self.views[effect.node_id]
        assert self.policy == "fastest"
        assert view.state is NodeState.HEALTHY
        assert effect.model in view.models
        assert effect.model not in view.outvoted
        self.loads.append(effect)

    @rule(pick=integers(min_value=0), has_failed=booleans())
    def end_load(self, pick: int, has_failed: bool) -> None:
        if self.loads:
            load = self.loads.pop(pick % len(self.loads))
            ended = self.sut.load_ended(load.node_id, load.model, self.now, has_failed=has_failed)
            self.take(ended)

    @rule(
        model=sampled_from(MODELS),
        excluded=frozensets(sampled_from(NODES), max_size=2),
        takes_slot=booleans(),
    )
    def submit(self, model: str, excluded: frozenset[str], takes_slot: bool) -> None:
        self.next_id += 1
        request = RouteRequest(
            f"r{self.next_id}", model, self.now, self.now + 20, excluded, takes_slot
        )
        self.waiting[request.id] = self.asked[request.id] = request
        self.take(self.sut.submit(request, self.now))

    @rule(pick=integers(min_value=0))
    def release(self, pick: int) -> None:
        if not self.spare:
            return
        lease = self.spare.pop(pick % len(self.spare))
        del self.held[lease.id]
        self.take(self.sut.release(lease, self.now))
        assert self.sut.release(lease, self.now) == []

    @rule(pick=integers(min_value=0))
    def cancel(self, pick: int) -> None:
        if not self.waiting:
            return
        name = sorted(self.waiting)[pick % len(self.waiting)]
        assert self.sut.cancel(name)
        del self.waiting[name]

    @rule(
        name=sampled_from(NODES),
        models=dictionaries(sampled_from(MODELS), sampled_from(DIGESTS)),
        outvoted=frozensets(sampled_from(MODELS), max_size=1),
        slots=integers(1, 3),
        state=sampled_from(list(NodeState)),
    )
    def change_node(
        self,
        name: str,
        models: dict[str, str],
        outvoted: frozenset[str],
        slots: int,
        state: NodeState,
    ) -> None:
        view = NodeView(
            name, f"http://{name}", Engine.OLLAMA, state, slots,
            models={model: Model(model, model, digest) for model, digest in models.items()},
            outvoted=outvoted,
        )  # fmt: skip
        self.views[name] = view
        self.take(self.sut.node_changed(view, self.now))

    @rule(name=sampled_from(NODES))
    def remove_node(self, name: str) -> None:
        self.views.pop(name, None)
        self.sut.node_removed(name)

    @rule(seconds=integers(1, 15))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        self.take(self.sut.tick(self.now))
        assert all(request.expires_at > self.now for request in self.waiting.values())

    @invariant()
    def counts_agree(self) -> None:
        statistics = self.sut.statistics()
        assert statistics.queue_length == len(self.waiting) <= 5
        assert statistics.total_in_flight == len(self.held)

    def teardown(self) -> None:
        for lease in self.spare:
            for effect in self.sut.release(lease, self.now):
                if isinstance(effect, Grant):
                    self.spare.append(effect.lease)
        for name in list(self.waiting):
            self.sut.cancel(name)
        final = self.sut.statistics()
        assert final == replace(final, in_flight={}, queue_length=0)


class WorkConservingMachine(SchedulerMachine):
    """A policy that never waits for a busy node while another is free."""

    policy = "resident_first"

    @invariant()
    def nothing_waits_that_could_run(self) -> None:
        for request in self.waiting.values():
            for view in self.views.values():
                is_free = (
                    view.state is NodeState.HEALTHY
                    and request.model in view.models
                    and request.model not in view.outvoted
                    and view.id not in request.excluded
                    and (not request.takes_slot or self.running(view, request.model) < view.slots)
                )
                assert not is_free


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = SETTINGS
TestWorkConserving = WorkConservingMachine.TestCase
TestWorkConserving.settings = SETTINGS
