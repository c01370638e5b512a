"""Which models are loaded before they are asked for, and which are not."""

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis.strategies import booleans, floats, integers, lists, sampled_from, tuples
from msgspec import structs

from sollol.scheduling.decision import Effect, Grant, Prewarm
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.placement import BACK_OFF_S, KEEP_S, SCARCE_S
from sollol.scheduling.scheduler import Scheduler
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

GIB = 1024**3
SIZE = 60 * GIB
"""So large that no single request would rather have it loaded than wait."""
CHAT = Ask(Task.CHAT, prompt_bytes=4000)


def node(
    name: str,
    *models: str,
    resident: tuple[str, ...] = (),
    memory_gib: int | None = 200,
    slots: int = 2,
) -> NodeView:
    return NodeView(
        name,
        f"http://{name}",
        Engine.OLLAMA,
        NodeState.HEALTHY,
        slots=slots,
        models={m: Model(m, m, size_bytes=SIZE) for m in models},
        resident={m: Resident(m, m, size_bytes=SIZE, vram_bytes=SIZE) for m in resident},
        memory_bytes=None if memory_gib is None else memory_gib * GIB,
    )


class Bench:
    """A scheduler under a steady stream of requests; prewarms are kept, and end when told."""

    def __init__(self, *views: NodeView, prewarms: bool = True, policy: str = "fastest") -> None:
        limits = SchedulerLimits(1000, policy, prewarms=prewarms, explore_share=0.0)
        self.sut = Scheduler(limits, Random(1))
        self.views = {view.id: view for view in views}
        self.now = 0.0
        self.number = 0
        self.running: list[tuple[float, Lease]] = []
        self.prewarms: list[tuple[float, Prewarm]] = []
        self.failed: list[float] = []
        self.service_s = 4.0
        self.look()

    def look(self) -> None:
        for view in self.views.values():
            self.take(self.sut.node_changed(view, self.now))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Grant):
                self.running.append((self.now + self.service_s, effect.lease))
            elif isinstance(effect, Prewarm):
                self.prewarms.append((self.now, effect))

    def ask(self, model: str, *, priority: int = 5, ask: Ask = CHAT) -> None:
        self.number += 1
        expires_at = self.now + 1000
        name = f"r{self.number}"
        request = RouteRequest(
            name, model, self.now, expires_at, priority=priority, ask=ask, caller=name
        )
        self.take(self.sut.submit(request, self.now))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            due = [lease for at, lease in self.running if at <= self.now]
            self.running = [(at, lease) for at, lease in self.running if at > self.now]
            for lease in due:
                measured = Measured(
                    load_s=0.0, prompt_tokens=1000, cached_tokens=0, prompt_s=1.0,
                    output_tokens=300, output_s=3.0, total_s=self.service_s,
                )  # fmt: skip
                self.take(self.sut.release(lease, self.now, measured))
            self.take(self.sut.tick(self.now))

    def ask_steadily(self, model: str, seconds: float, each_s: float, priority: int = 5) -> None:
        end = self.now + seconds
        while self.now < end:
            self.ask(model, priority=priority)
            self.pass_time(each_s)

    def end(self, effect: Prewarm, *, has_failed: bool = False) -> None:
        self.take(
            self.sut.load_ended(effect.node_id, effect.model, self.now, has_failed=has_failed)
        )

    @property
    def placed(self) -> list[tuple[str, str]]:
        return [(effect.node_id, effect.model) for _, effect in self.prewarms]


def overloaded(*others: NodeView, each_s: float = 1.2, prewarms: bool = True) -> Bench:
    """Return two minutes of more requests for m than node a, which has it in memory, can serve."""
    sut = Bench(node("a", "m", resident=("m",)), *others, prewarms=prewarms)
    sut.ask_steadily("m", 60.0, 5.0)
    sut.ask_steadily("m", 80.0, each_s)
    return sut


def test_a_model_that_is_scarce_for_long_gets_one_more_copy() -> None:
    sut = overloaded(node("b", "m"))
    assert sut.placed == [("b", "m")]
    at, effect = sut.prewarms[0]
    assert at >= SCARCE_S
    assert "requests" in effect.reason


def test_nothing_is_loaded_where_that_is_switched_off() -> None:
    assert overloaded(node("b", "m"), prewarms=False).placed == []


def test_other_policies_load_nothing_beforehand() -> None:
    sut = Bench(node("a", "m", resident=("m",)), node("b", "m"), policy="resident_first")
    sut.ask_steadily("m", 60.0, 0.6)
    assert sut.placed == []


def test_a_model_that_keeps_up_gets_no_other_copy() -> None:
    assert overloaded(node("b", "m"), each_s=10.0).placed == []


def test_only_ollama_nodes_are_asked_to_load() -> None:
    other = replace(node("b", "m"), engine=Engine.OPENAI)
    assert overloaded(other).placed == []


def wanting(view: NodeView, *, asked: str = "m", **more: Any) -> Bench:
    """Return an overloaded node a, and beside it one on which something else may go on."""
    sut = Bench(node("a", "m", resident=("m",)), view)
    while sut.now < 140.0:
        sut.ask("m", **more)
        if asked != "m":
            sut.ask(asked)
        sut.pass_time(5.0 if sut.now < 60.0 else 1.2)
    return sut


def test_a_model_in_demand_is_never_pushed_out_for_another() -> None:
    full = replace(node("b", "m", "n", resident=("n",)), memory_bytes=100 * GIB)
    assert ("b", "m") not in wanting(full, asked="n").placed


def test_what_nobody_asks_for_makes_room_once_it_was_there_for_a_while() -> None:
    full = replace(node("b", "m", "n", resident=("n",)), memory_bytes=100 * GIB)
    sut = wanting(full)
    assert sut.placed == [("b", "m")]
    assert sut.prewarms[0][0] >= KEEP_S


def test_a_node_whose_room_is_not_known_is_taken_for_full() -> None:
    unknown = replace(node("b", "m", "n", resident=("n",)), memory_bytes=None)
    assert ("b", "m") not in wanting(unknown, asked="n").placed
    idle = wanting(unknown)
    assert idle.placed == [("b", "m")]
    assert idle.prewarms[0][0] >= KEEP_S


def test_what_is_asked_for_now_and_then_is_not_pushed_out_either() -> None:
    full = replace(node("b", "m", "n", resident=("n",)), memory_bytes=100 * GIB)
    sut = Bench(node("a", "m", resident=("m",)), full)
    sut.ask_steadily("m", 60.0, 5.0)
    for _ in range(6):
        sut.ask("n")
        sut.ask_steadily("m", 14.0, 1.2)
    assert ("b", "m") not in sut.placed


def test_a_node_that_loads_is_given_no_other_load() -> None:
    sut = Bench(node("a", "m", resident=("m",)), node("b", "m", "n", slots=4))
    sut.ask_steadily("m", 60.0, 5.0)
    sut.service_s = 1000.0
    sut.ask("n")
    (loading,) = [lease for _, lease in sut.running if lease.loads]
    sut.service_s = 4.0
    sut.ask_steadily("m", 60.0, 1.2)
    assert loading.node_id == "b"
    assert sut.placed == []


def test_what_is_asked_under_two_names_of_one_model_counts_together() -> None:
    names = {name: Model(name, name, digest="d", size_bytes=SIZE) for name in ("m", "n")}
    held = {"m": Resident("m", "m", digest="d", size_bytes=SIZE, vram_bytes=SIZE)}
    first, second = (replace(node(name), models=names) for name in ("a", "b"))
    sut = Bench(replace(first, resident=held), second)
    for each_s, until in ((10.0, 60.0), (2.4, 140.0)):
        while sut.now < until:
            sut.ask("m")
            sut.pass_time(each_s / 2)
            sut.ask("n")
            sut.pass_time(each_s / 2)
    assert [node_id for node_id, _ in sut.placed] == ["b"]


def test_a_node_with_urgent_work_is_left_alone() -> None:
    sut = Bench(
        node("a", "m", resident=("m",)),
        node("b", "m", "n", resident=("n",), slots=4),
    )
    sut.service_s = 1000.0
    sut.ask("n", priority=9)
    sut.service_s = 4.0
    sut.ask_steadily("m", 60.0, 5.0)
    sut.ask_steadily("m", 80.0, 1.2)
    assert sut.placed == []


def test_a_model_whose_requests_set_options_is_not_loaded_without_them() -> None:
    ask = replace_ask(options=(("num_ctx", 8192),))
    assert wanting(node("b", "m"), ask=ask).placed == []


def replace_ask(**changes: Any) -> Ask:
    return structs.replace(CHAT, **changes)


def left(*, asked: int = 5, **changes: Any) -> Bench:
    """Return a model that is asked for, was in memory on node a, and has left it by itself."""
    sut = Bench(replace(node("a", "m", resident=("m",)), **changes), node("b", "m"))
    sut.service_s = 1.0
    for _ in range(asked):
        sut.ask("m")
        sut.pass_time(3.0)
    sut.views["a"] = replace(sut.views["a"], resident={})
    sut.look()
    sut.pass_time(3.0)
    return sut


def test_a_model_with_steady_demand_that_left_is_loaded_again() -> None:
    sut = left()
    assert len(sut.placed) == 1
    assert sut.placed[0][1] == "m"
    sut.pass_time(3.0)
    assert len(sut.placed) == 1, "it is being loaded"


def test_a_failed_load_is_tried_again_after_a_while() -> None:
    sut = Bench(node("a", "m", resident=("m",)))
    sut.service_s = 1.0
    sut.ask_steadily("m", 180.0, 1.5)
    sut.look()
    sut.views["a"] = node("a", "m")
    sut.look()
    for _ in range(40):
        sut.pass_time(10.0)
        for at, effect in sut.prewarms[len(sut.failed) :]:
            sut.failed.append(at)
            sut.end(effect, has_failed=True)
    first, second = sut.failed  # what left long ago is not loaded again
    assert second - first >= 2 * BACK_OFF_S


def test_one_that_is_hardly_asked_for_is_not() -> None:
    assert left(asked=1).placed == []


def test_one_that_left_while_another_was_loaded_is_not() -> None:
    sut = Bench(node("a", "m", "n", resident=("m",)), node("b", "m"))
    sut.service_s = 1.0
    sut.ask_steadily("m", 20.0, 3.0)
    sut.ask("n")
    sut.views["a"] = node("a", "m", "n")  # n is on its way, and m had to leave for it
    sut.look()
    sut.pass_time(10.0)
    assert sut.placed == []


def test_one_that_a_caller_had_unloaded_is_not() -> None:
    sut = Bench(node("a", "m", resident=("m",)))
    sut.service_s = 1.0
    sut.ask_steadily("m", 20.0, 3.0)
    sut.sut.unloaded("m")
    sut.views["a"] = node("a", "m")
    sut.look()
    sut.pass_time(10.0)
    assert sut.placed == []


def test_a_prewarmed_model_that_leaves_unused_is_not_loaded_for_a_while() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.end(effect)
    sut.pass_time(15.0)
    sut.look()  # no node has it
    sut.pass_time(BACK_OFF_S)
    assert all(one.node_id != effect.node_id for _, one in sut.prewarms[1:])


def test_a_prewarmed_model_that_is_used_clears_what_was_held_against_it() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.end(effect)
    sut.ask("m")
    assert sut.running[-1][1].node_id == effect.node_id
    assert not sut.running[-1][1].loads
    sut.pass_time(10.0)
    assert len(sut.placed) == 1


def test_who_asks_during_the_load_goes_there_and_is_served_when_it_ends() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.ask("m")
    assert sut.running[-1][1].node_id == effect.node_id
    sut.end(effect)
    sut.pass_time(10.0)
    assert not sut.running


def test_a_load_that_outlasts_the_prediction_is_still_under_way() -> None:
    sut = left()
    sut.pass_time(600.0)
    assert len(sut.placed) == 1


def test_a_failed_load_under_which_somebody_runs_leaves_the_model_where_it_is() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.service_s = 50.0
    sut.ask("m")
    sut.end(effect, has_failed=True)
    sut.pass_time(60.0)
    assert not sut.running


def test_the_end_of_a_load_on_a_node_that_has_left_says_nothing() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.sut.node_removed(effect.node_id)
    sut.end(effect)
    sut.end(Prewarm("nowhere", "m", ""))
    sut.pass_time(5.0)


def test_a_model_that_is_deleted_while_it_loads_is_forgotten() -> None:
    sut = left()
    ((_, effect),) = sut.prewarms
    sut.views[effect.node_id] = node(effect.node_id)
    sut.look()
    sut.pass_time(5.0)
    sut.end(effect)
    assert sut.placed[0] == (effect.node_id, "m")


EVENTS = lists(
    tuples(sampled_from(("m", "n", "o")), floats(0.25, 20.0), integers(1, 10), booleans()),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_whatever_is_asked_a_node_gets_few_prewarms_and_one_at_a_time(events: Any) -> None:
    names = ("m", "n", "o")
    views = [node(name, *names, memory_gib=memory) for name, memory in (("a", 100), ("b", None))]
    sut = Bench(*views)
    began: dict[str, list[float]] = {}
    under_way: set[str] = set()
    unended: list[Prewarm] = []
    for model, seconds, priority, has_failed in events:
        for _ in range(6):
            sut.ask(model, priority=priority)
        sut.pass_time(seconds)
        for at, effect in sut.prewarms:
            assert effect.node_id not in under_way
            assert at - began.get(effect.node_id, [-KEEP_S])[-1] >= KEEP_S
            began.setdefault(effect.node_id, []).append(at)
            under_way.add(effect.node_id)
        if has_failed or seconds > 10:
            for _, effect in sut.prewarms:
                under_way.discard(effect.node_id)
                sut.end(effect, has_failed=has_failed)
            sut.prewarms.clear()
        else:
            unended += [effect for _, effect in sut.prewarms]
            sut.prewarms.clear()
            if len(unended) > 1:
                under_way.discard(unended[0].node_id)
                sut.end(unended.pop(0))
    for moments in began.values():
        assert len(moments) <= sut.now / KEEP_S + 1
