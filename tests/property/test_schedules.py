"""Two and a half thousand random schedules: whatever happens, no slot is lost, doubled or kept.

``SCHEDULES=1000000 pytest -n auto tests/property/test_schedules.py`` runs more of them, and
``SCHEDULE=N`` one again, the one that a failure names. All times lie on a grid of 10 ms, so that
things happen in the same moment.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

from sollol.errors import SollolError
from sollol.scheduling.decision import Effect, Grant, Prewarm
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.scheduler import Scheduler
from sollol.scheduling.state import Node
from sollol.types import (
    Ask,
    Engine,
    Lease,
    Measured,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
    Task,
)
from tests.scheduling import GB, assert_books, assert_clean, nodes_of

SCHEDULES = int(os.environ.get("SCHEDULES", "2500"))
PARTS = 10
EVENTS = 30
GRID_S = 0.01
PAUSES = (0, 0, 0, 0, 1, 1, 5, 50, 300, 1500)
"""Steps of the grid between two events; mostly none."""

NAMES = ("a", "b", "c", "d", "e", "f")
MODELS = ("m0", "m1", "m2", "m3")
CALLERS = ("", "x", "y")
TASKS = (Task.CHAT, Task.CHAT, Task.GENERATE, Task.EMBED)
ENGINES = (Engine.OLLAMA, Engine.OLLAMA, Engine.OLLAMA, Engine.LLAMA_SERVER)
NEEDS = (frozenset[str](), frozenset[str](), frozenset({"vision"}))
NONSENSE = (None, 0.0, 1e-9, 0.01, 0.5, 3.0, 120.0, 1e12)
COUNTS = (None, 0, 1, 20, 300, 10**9)
POLICY_NAMES = (*POLICIES, "fastest", "fastest", "fastest", "fastest")


class Schedule:
    """A scheduler, random events, and books of its own beside it."""

    def __init__(self, seed: int, *, looks: bool = True) -> None:
        self.looks = looks
        self.forbidden: dict[tuple[str, str], None] = {}
        self.rng = rng = Random(seed)
        self.limits = SchedulerLimits(
            queue_max_length=rng.choice((1, 3, 10, 100)),
            policy=rng.choice(POLICY_NAMES),
            ageing_s=rng.choice((0.1, 1.0, 10.0)),
            max_in_flight_per_caller=rng.choice((None, None, 1, 2)),
            explore_share=rng.choice((0.01, 0.5)),
            uses_affinity=rng.random() < 0.8,
            counts_options=rng.random() < 0.8,
            adapts_options=rng.random() < 0.3,
            is_allowed=lambda node, model: (node, model) not in self.forbidden,
        )
        self.sut = Scheduler(self.limits, Random(seed))
        self.now = 0.0
        self.names = NAMES[: rng.randint(1, 6)]
        self.models = MODELS[: rng.randint(1, 4)]
        self.views: dict[str, NodeView] = {}
        self.asked: dict[str, RouteRequest] = {}
        self.waiting: dict[str, RouteRequest] = {}
        self.held: dict[int, Lease] = {}
        self.trials: dict[int, Lease] = {}
        """Those of which nothing has come yet."""
        self.proven: dict[tuple[str, str], None] = {}
        """Nodes and runners that have begun to answer a trial, and not failed since."""
        self.warming: list[Prewarm] = []
        self.gone: list[Node] = []
        self.digest = hashlib.sha256()
        self.shown = hashlib.sha256()
        for name in self.names:
            self.change(name)

    def run(self) -> str:
        """Play all events and leave; return what stands for everything that happened."""
        events = (
            self.submit, self.submit, self.submit, self.submit, self.submit, self.submit,
            self.release, self.release, self.release, self.release,
            self.cancel, self.alter, self.remove, self.tick, self.tick, self.loaded, self.preview,
            self.forbid, self.warmed, self.full, self.begun,
        )  # fmt: skip
        for _ in range(EVENTS):
            self.now = round(self.now + self.rng.choice(PAUSES) * GRID_S, 2)
            self.rng.choice(events)()
            self.check_counts()
        self.leave()
        return self.digest.hexdigest() + (self.shown.hexdigest() if self.looks else "")

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Prewarm):
                self.digest.update(repr(effect).encode())
                assert self.views[effect.node_id].state is NodeState.HEALTHY
                self.warming.append(effect)
                continue
            if not isinstance(effect, Grant):
                self.digest.update(f"refused {effect.request_id} {effect.error}".encode())
                del self.waiting[effect.request_id]
                continue
            lease = effect.lease
            self.digest.update(repr(effect).encode())
            assert lease.id not in self.held, "a lease was granted twice"
            request = self.waiting.pop(lease.request_id)  # once, and asked for
            self.held[lease.id] = lease
            if lease.is_trial:
                self.trials[lease.id] = lease
            self.check_grant(request, lease)

    def warmed(self) -> None:
        """End a load that the scheduler asked for itself, be its node there still or not."""
        if self.warming:
            effect = self.warming.pop(self.rng.randrange(len(self.warming)))
            has_failed = self.rng.random() < 0.5
            self.take(
                self.sut.load_ended(effect.node_id, effect.model, self.now, has_failed=has_failed)
            )

    def begun(self) -> None:
        """Let an answer begin, on trial or not."""
        if self.held:
            lease = self.held[self.rng.choice(list(self.held))]
            if self.trials.pop(lease.id, None):
                self.proven[lease.node_id, lease.runner] = None
            self.take(self.sut.begun(lease, self.now))
            assert self.sut.begun(lease, self.now) == []

    def full(self) -> None:
        """Let a node say that it has no room for a request."""
        if self.held:
            self.sut.full(self.held[self.rng.choice(list(self.held))], self.now)

    def is_open(self, view: NodeView, model: str) -> bool:
        is_limited = view.limited.get(view.runner(model)) is NodeState.EJECTED
        return view.is_open and not is_limited

    def check_state(self, request: RouteRequest, lease: Lease, view: NodeView) -> None:
        """What is on trial and not proven has no other trial; what is ejected is the last resort."""
        model = request.model
        if not self.is_open(view, model):
            assert view.is_open or view.state is NodeState.EJECTED
            assert not any(
                self.is_open(other, model)
                for other in self.views.values()
                if model in other.models and model not in other.outvoted
                if (other.id, model) not in self.forbidden
            )
        if not request.takes_slot or (
            view.state is NodeState.HEALTHY and view.runner(model) not in view.limited
        ):
            return
        others = [
            held
            for held in self.trials.values()
            if held is not lease and held.node_id == view.id
            if view.state is not NodeState.HEALTHY or held.runner == lease.runner
        ]
        is_trial = lease.is_trial and not others
        assert is_trial or (view.id, lease.runner) in self.proven, (
            "more than one at a time on trial"
        )

    def check_grant(self, request: RouteRequest, lease: Lease) -> None:
        view = self.views[lease.node_id]
        self.check_state(request, lease, view)
        assert request.model in view.models
        assert request.model not in view.outvoted
        assert (view.id, request.model) not in self.forbidden
        assert view.id not in request.excluded
        assert lease.queue_wait_s >= 0.0
        if not request.takes_slot:
            return
        assert lease.runner == view.runner(request.model)
        same = [h for h in self.held.values() if h.node_id == view.id and h.runner == lease.runner]
        assert len(same) <= view.slots, "more leases than slots"
        most = self.limits.max_in_flight_per_caller
        if most is not None:
            mine = [
                h for h in self.held.values() if self.asked[h.request_id].caller == request.caller
            ]
            assert sum(self.asked[h.request_id].takes_slot for h in mine) <= most

    def check_counts(self) -> None:
        statistics = self.sut.statistics()
        assert statistics.queue_length == len(self.waiting) <= self.limits.queue_max_length
        assert statistics.total_in_flight == len(self.held)

    def submit(self) -> None:
        rng = self.rng
        request = RouteRequest(
            id=f"r{len(self.asked)}",
            model=rng.choice(self.models),
            arrived_at=self.now,
            expires_at=round(self.now + rng.choice((0.0, 0.05, 5.0, 60.0)), 2),
            excluded=frozenset(rng.sample(self.names, 1)) if rng.random() < 0.1 else frozenset(),
            takes_slot=rng.random() < 0.95,
            priority=rng.choice((1, 4, 5, 5, 9, 10)),
            caller=rng.choice(CALLERS),
            ask=self.ask(),
        )
        self.asked[request.id] = self.waiting[request.id] = request
        self.take(self.sut.submit(request, self.now))

    def ask(self) -> Ask:
        rng = self.rng
        return Ask(
            task=rng.choice(TASKS),
            prompt_bytes=rng.choice((0, 40, 2000, 10**8)),
            images=rng.choice((0, 0, 2)),
            max_output_tokens=rng.choice((None, 1, 100)),
            options=rng.choice(((), (), (), (("num_ctx", 8192),), (("num_gpu", 0),))),
            needs=rng.choice(NEEDS),
            conversation=rng.choice((0, 1, 2)),
        )

    def measured(self) -> Measured | None:
        rng = self.rng
        if rng.random() < 0.3:
            return None
        seconds = [rng.choice(NONSENSE) for _ in range(6)]
        load_s, prompt_s, output_s, node_total_s, first_byte_s, total_s = seconds
        return Measured(
            load_s, rng.choice(COUNTS), rng.choice(COUNTS), prompt_s, rng.choice(COUNTS), output_s,
            node_total_s, first_byte_s, total_s, rng.choice((0, 1, 50)),
        )  # fmt: skip

    def release(self) -> None:
        if not self.held:
            return
        lease = self.held.pop(self.rng.choice(list(self.held)))
        measured, has_failed = self.measured(), self.rng.random() < 0.1
        self.trials.pop(lease.id, None)
        if has_failed:
            self.proven.pop((lease.node_id, lease.runner), None)
        self.take(self.sut.release(lease, self.now, measured, has_failed=has_failed))
        assert self.sut.release(lease, self.now, measured) == []

    def cancel(self) -> None:
        if not self.asked:
            return
        name = self.rng.choice(list(self.asked))
        assert self.sut.cancel(name) == (name in self.waiting)
        self.waiting.pop(name, None)

    def alter(self) -> None:
        self.change(self.rng.choice(self.names))

    def change(self, name: str) -> None:
        rng = self.rng
        before = self.views.get(name)
        if before is not None and rng.random() < 0.5:
            view = replace(
                before,
                state=rng.choice((NodeState.HEALTHY, *NodeState)),
                resident=self.residents(before.models),
                limited={
                    before.runner(model): rng.choice((NodeState.EJECTED, NodeState.HALF_OPEN))
                    for model in before.models
                    if rng.random() < 0.1
                },
            )
        else:
            models = {
                model: Model(
                    model, model, rng.choice(("", "", "d1", "d2")), rng.choice((0, GB, 40 * GB)),
                    context_length=rng.choice((None, None, 4096)),
                    capabilities=rng.choice(NEEDS),
                )
                for model in self.models
                if rng.random() < 0.8
            }  # fmt: skip
            view = NodeView(
                name, f"http://{name}", rng.choice(ENGINES), NodeState.HEALTHY, rng.randint(1, 3),
                models=models, resident=self.residents(models),
                memory_bytes=rng.choice((None, None, GB, 50 * GB)),
                outvoted=frozenset(m for m in models if rng.random() < 0.05),
            )  # fmt: skip
        if before is not None:
            view = self.with_room_for_held(view, before)
        self.views[name] = view
        if before is None or _what_limits(before) != _what_limits(view):
            self.proven = {pair: None for pair in self.proven if pair[0] != name}
        self.take(self.sut.node_changed(view, self.now))

    def with_room_for_held(self, view: NodeView, before: NodeView) -> NodeView:
        """A view has no fewer slots than the one before: leases that are held stay."""
        return replace(view, slots=max(view.slots, before.slots))

    def residents(self, models: object) -> dict[str, Resident]:
        assert isinstance(models, dict)
        return {
            model: Resident(model, model, size_bytes=GB, vram_bytes=self.rng.choice((0, GB)))
            for model in models
            if self.rng.random() < 0.3
        }

    def remove(self) -> None:
        name = self.rng.choice(self.names)
        node = nodes_of(self.sut).get(name)
        if node is not None:
            self.gone.append(node)
        self.views.pop(name, None)
        self.sut.node_removed(name)

    def tick(self) -> None:
        self.take(self.sut.tick(self.now))
        assert all(request.expires_at > self.now for request in self.waiting.values())

    def loaded(self) -> None:
        if self.held:
            self.take(self.sut.loaded(self.held[self.rng.choice(list(self.held))], self.now))

    def preview(self) -> None:
        """Look at everything there is to see, which changes nothing."""
        model = self.rng.choice(self.models)
        request = RouteRequest("preview", model, self.now, self.now, ask=self.ask())
        if not self.looks:
            return
        before = self.sut.statistics()
        seen = [f"{each.request_id} {each.node_id}" for each in self.sut.queued(self.now, 3)]
        assert len(seen) == min(3, len(self.waiting))
        for name in self.waiting:
            assert self.sut.find_queued(name, self.now) is not None
        assert len(self.sut.estimates()) == len(self.views)
        try:
            seen.append(repr(self.sut.preview(request, self.now)))
            assert seen[-1] == repr(self.sut.preview(request, self.now))
        except SollolError as error:
            seen.append(str(error))
        self.shown.update("".join(seen).encode())
        assert self.sut.statistics() == before
        assert_books(self.sut)

    def forbid(self) -> None:
        """Let other nodes run other models from now on."""
        pair = (self.rng.choice(self.names), self.rng.choice(self.models))
        if self.forbidden.pop(pair, pair) is pair:
            self.forbidden[pair] = None
        self.take(self.sut.rules_changed(self.now))

    def leave(self) -> None:
        """Everybody goes, in some order."""
        while self.held or self.waiting:
            if self.waiting and self.rng.random() < 0.3:
                name = self.rng.choice(list(self.waiting))
                assert self.sut.cancel(name)
                del self.waiting[name]
            elif self.held:
                self.release()
            self.now = round(self.now + GRID_S, 2)
        while self.warming:
            self.warmed()
        assert_clean(self.sut, self.now, self.gone)


def _what_limits(view: NodeView) -> tuple[object, ...]:
    return view.state, view.limited, view.models, view.outvoted


def digest(seeds: range) -> str:
    """Return what stands for all that happens in some schedules."""
    whole = hashlib.sha256()
    for seed in seeds:
        try:
            whole.update(Schedule(seed).run().encode())
        except Exception as error:
            error.add_note(f"in schedule {seed}: SCHEDULE={seed} runs it again")
            raise
    return whole.hexdigest()


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_doubled_or_kept(part: int) -> None:
    each = SCHEDULES // PARTS
    seeds = range(part * each, (part + 1) * each)
    one = os.environ.get("SCHEDULE")
    digest(seeds if one is None else range(int(one), int(one) + 1))


@pytest.mark.parametrize("part", range(PARTS))
def test_who_looks_changes_nothing(part: int) -> None:
    for seed in range(part * SCHEDULES // 200, (part + 1) * SCHEDULES // 200):
        with_looks = Schedule(seed).run()
        assert with_looks.startswith(Schedule(seed, looks=False).run()), f"in schedule {seed}"


def test_the_same_events_give_the_same_decisions_in_another_process() -> None:
    seeds = range(100)
    here = digest(seeds)
    assert digest(seeds) == here
    code = f"from tests.property.test_schedules import digest; print(digest({seeds!r}))"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here
