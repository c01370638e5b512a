"""Who of those that wait is looked at, and that the rest is not held up by them."""

from dataclasses import replace
from random import Random

import pytest

from sollol.errors import ModelNotFound
from sollol.scheduling.fairness import FairClock
from sollol.scheduling.leases import Leases
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.policies import POLICIES
from sollol.scheduling.queue import WaitQueue
from sollol.scheduling.scheduler import STRANDED_S, Scheduler
from sollol.types import Ask, Engine, Lease, Measured, NodeState, NodeView
from tests.scheduling import GB, Play, asks, assert_clean, leases, nodes_of, refused, view

FOREVER_S = 500.0


def scheduler(*views: NodeView, queue: int = 1000, cap: int | None = None) -> Scheduler:
    made = Scheduler(SchedulerLimits(queue, max_in_flight_per_caller=cap), Random(1))
    for each in views:
        made.node_changed(each, 0.0)
    return made


def long_first(lease: Lease) -> float:
    return FOREVER_S if lease.request_id.startswith("long") else 1.0


def test_many_models_whose_slots_are_taken_hold_up_no_other() -> None:
    full = [f"m{number:02}" for number in range(12)]
    play = Play(scheduler(view("a", [*full, "free"], resident=[*full, "free"])), long_first)
    held = [asks(f"long-{model}", model) for model in full]
    behind = [asks(f"{model}-{n}", model, 0.1) for model in full for n in range(7)]
    play.run([*held, *behind, *(asks(f"f{n}", "free", 0.2) for n in range(5))], 100.0)
    assert [play.wait_s(f"f{n}") for n in range(5)] == pytest.approx([0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("ask", "is_picky"),
    [
        (Ask(needs=frozenset({"vision"})), True),
        (Ask(prompt_bytes=40_000), True),
        (Ask(), False),
    ],
)
def test_those_who_need_a_node_that_is_taken_hold_up_none_that_do_not(
    ask: Ask, is_picky: bool
) -> None:
    able, plain = view("a", "m", resident="m"), view("b", "m", resident="m")
    vision = replace(able.models["m"], capabilities=frozenset({"vision"}), context_length=32768)
    small = replace(plain.models["m"], context_length=4096)
    sut = scheduler(replace(able, models={"m": vision}), replace(plain, models={"m": small}))
    play = Play(sut, long_first)
    picky = [asks(f"p{n}", at=0.1, ask=ask) for n in range(8)]
    others = [asks(f"o{n}", at=0.2) for n in range(5)]
    play.run([asks("long", ask=Ask(needs=frozenset({"vision"}))), *picky, *others], 100.0)
    first = 0.0 if is_picky else 7.0
    assert all(first <= play.wait_s(f"o{n}") < 15.0 for n in range(5))
    assert any(play.wait_s(f"p{n}") > 90.0 for n in range(8)) == is_picky


def test_those_whose_caller_is_at_its_limit_hold_up_nobody() -> None:
    short = Ask(max_output_tokens=1)
    sut = scheduler(view("a", "mn", resident="mn"), cap=1)
    play = Play(sut, long_first)
    flood = [asks(f"x{n}", at=0.1, caller="x", priority=10, ask=short) for n in range(200)]
    others = [asks(f"o{n}", at=0.2, caller=f"c{n}", priority=3) for n in range(3)]
    play.run([asks("long", "n", caller="x"), *flood, *others], 100.0)
    assert [play.wait_s(f"o{n}") for n in range(3)] == pytest.approx([0, 1, 2])


def test_a_caller_at_its_limit_is_forgotten_when_nobody_waits() -> None:
    sut = scheduler(view("a", "m", slots=2), cap=1)
    (held,) = leases(sut.submit(asks("r1", caller="x"), 0.0))
    assert sut.submit(asks("r2", caller="x"), 0.0) == []
    assert sut.cancel("r2")
    sut.release(held, 1.0)
    assert_clean(sut, 2.0)


def test_an_id_that_waits_already_costs_nobody_its_place() -> None:
    sut = scheduler(view("a", "m"), queue=2)
    sut.submit(asks("r1"), 0.0)
    sut.submit(asks("low", priority=1), 0.0)
    sut.submit(asks("twice", priority=9), 0.0)
    with pytest.raises(ValueError, match="queued already"):
        sut.submit(asks("twice", priority=9), 0.0)
    assert sut.cancel("low")


def test_a_less_urgent_request_is_evicted_for_a_more_urgent_one() -> None:
    sut = scheduler(view("a", "m"), queue=1)
    sut.submit(asks("r1"), 0.0)
    assert sut.submit(asks("low", priority=1), 0.0) == []
    assert refused(sut.submit(asks("high", priority=9), 0.0)) == ["low"]
    assert refused(sut.submit(asks("high2", priority=9), 0.0)) == ["high2"]


def test_what_a_caller_asks_for_counts_for_its_less_urgent_requests_only() -> None:
    clock = FairClock()
    urgent, batch = asks("u", priority=8), asks("b", priority=1)
    clock.charge(batch, 50.0)
    assert (clock.start(urgent), clock.start(batch)) == (0.0, 50.0)
    clock.charge(urgent, 55.0)
    assert (clock.start(urgent), clock.start(batch)) == (55.0, 55.0)
    assert clock.start(asks("other", caller="x")) == 0.0
    clock.forget_past(54.9)
    assert len(clock) == 1
    clock.forget_past(55.0)
    assert len(clock) == 0


def test_batch_of_a_caller_does_not_go_before_its_urgent_requests() -> None:
    play = Play(scheduler(view("a", "m", resident="m")))
    urgent = [asks(f"u{n}", priority=8) for n in range(50)]
    play.run([*urgent, asks("batch", at=1.0, priority=1)], 1000.0)
    assert max(at for at, _ in play.granted.values()) == play.granted["batch"][0]


def test_a_node_that_comes_back_has_no_more_slots_than_are_free() -> None:
    sut = scheduler(view("a", "m"))
    (held,) = leases(sut.submit(asks("r1"), 0.0))
    sut.node_removed("a")
    sut.node_changed(view("a", "m"), 1.0)
    assert sut.submit(asks("r2"), 1.0) == []
    assert [lease.request_id for lease in leases(sut.release(held, 2.0))] == ["r2"]


def test_a_digest_that_comes_back_has_no_more_slots_than_are_free() -> None:
    def holding(digest: str) -> NodeView:
        plain = view("a", "m")
        return replace(plain, models={"m": replace(plain.models["m"], digest=digest)})

    sut = scheduler(holding("d1"))
    (held,) = leases(sut.submit(asks("r1"), 0.0))
    sut.node_changed(holding("d2"), 1.0)
    sut.node_changed(holding("d1"), 2.0)
    assert sut.submit(asks("r2"), 2.0) == []
    assert [lease.request_id for lease in leases(sut.release(held, 3.0))] == ["r2"]


def test_a_node_that_left_in_use_is_forgotten_once_it_is_idle() -> None:
    sut = scheduler(view("a", "m"))
    (held,) = leases(sut.submit(asks("r1"), 0.0))
    gone = nodes_of(sut)["a"]
    sut.node_removed("a")
    sut.release(held, 1.0)
    assert_clean(sut, 10.0, [gone])
    assert not sut._fleet._left


def test_the_memory_of_a_node_may_change() -> None:
    sut = scheduler(view("a", "mn", resident="m", memory_bytes=4 * GB))
    sut.node_changed(view("a", "mn", resident="m", memory_bytes=GB), 1.0)
    assert nodes_of(sut)["a"].capacity.told_bytes == GB


def test_a_model_that_left_the_disk_is_no_copy_any_more() -> None:
    sut = scheduler(view("a", "mn", resident="m"), view("b", "m", resident="m"))
    assert sut._fleet.shared.copies["m", ()] == 2
    sut.node_changed(view("a", "n"), 1.0)
    assert sut._fleet.shared.copies["m", ()] == 1
    sut.node_changed(view("b", "m", state=NodeState.UNHEALTHY, resident="m"), 1.0)
    assert_clean(sut, 2.0)


def test_the_queue_tells_who_is_before_whom() -> None:
    queue = WaitQueue(3)
    late = queue.push(asks("late"), 5.0, 0.0)
    vision = asks("other", ask=Ask(needs=frozenset({"vision"})))
    first, other = queue.push(asks("first"), 1.0, 0.0), queue.push(vision, 3.0, 0.0)
    assert queue.is_full
    assert queue.find("late") is late
    assert queue.find("nobody") is None
    assert queue.all() == queue.waiting("m", frozenset()) == [first, other, late]
    assert queue.last() is late
    assert queue.waiting("n", frozenset()) == []


def test_equal_keys_keep_the_order_in_which_they_came() -> None:
    queue = WaitQueue(9)
    entries = [queue.push(asks(f"r{n}"), 1.0, 0.0) for n in range(5)]
    (row,) = queue.rows(["m", "n"])
    seen = []
    while not row.is_done:
        seen.append(row.next)
        row.skip()
    assert seen == entries


def test_a_node_that_may_not_run_a_model_is_not_asked_to() -> None:
    limits = SchedulerLimits(9, is_allowed=lambda node, model: (node, model) != ("a", "m"))
    sut = Scheduler(limits, Random(1))
    sut.node_changed(view("a", "mn"), 0.0)
    assert refused(sut.submit(asks("r1", "m"), 0.0)) == ["r1"]
    assert len(leases(sut.submit(asks("r2", "n"), 0.0))) == 1
    with pytest.raises(ModelNotFound):
        sut.preview(asks("r3", "m"), 0.0)


def test_a_load_that_failed_leaves_the_model_in_memory_only_where_others_use_it() -> None:
    sut = scheduler(view("a", "m", slots=2))
    first, second = (leases(sut.submit(asks(f"r{n}"), 0.0))[0] for n in range(2))
    runner = nodes_of(sut)["a"].by_model["m"]
    ready_at = runner.ready_at
    sut.release(first, 0.1, has_failed=True)
    assert runner.is_resident
    assert runner.ready_at == ready_at
    sut.release(second, ready_at + 0.1)
    third = leases(sut.submit(asks("r3"), ready_at + 0.2))[0]
    assert not third.loads
    sut.release(third, ready_at + 0.3, has_failed=True)
    assert runner.is_resident  # it was there before
    assert nodes_of(sut)["a"].failure_share > 0.0


def test_a_load_whose_only_caller_left_is_taken_to_have_stopped() -> None:
    sut = scheduler(view("a", "m", slots=2))
    first, second = (leases(sut.submit(asks(f"r{n}"), 0.0))[0] for n in range(2))
    runner = nodes_of(sut)["a"].by_model["m"]
    assert runner.ready_at > 0.2
    sut.release(first, 0.1)
    assert runner.is_resident  # the other waits for it still
    sut.release(second, 0.2)
    assert leases(sut.submit(asks("r3"), 0.3))[0].loads


def test_a_lease_that_nobody_has_gives_nothing_back() -> None:
    assert Leases().give_back(Lease(1, "r", "a", "m", 0.0), 1.0) is None


def test_a_request_that_is_tried_again_keeps_its_place() -> None:
    sut = scheduler(view("a", "m"), view("b", "m"))
    (failed,) = leases(sut.submit(asks("old", at=0.0, caller="x"), 0.0))
    other = "b" if failed.node_id == "a" else "a"
    (held,) = leases(sut.submit(asks("held", at=1.0, caller="y"), 1.0))
    assert held.node_id == other
    later = asks("later", at=20.0, caller="z", excluded=frozenset({failed.node_id}))
    assert sut.submit(later, 20.0) == []
    sut.release(failed, 30.0, has_failed=True)
    again = asks("old", at=0.0, caller="x", excluded=frozenset({failed.node_id}))
    assert sut.submit(again, 30.0) == []
    assert [lease.request_id for lease in leases(sut.release(held, 31.0))] == ["old"]


def test_a_shared_slot_goes_to_the_more_urgent_under_any_name() -> None:
    plain = view("a", "mn")
    shared = {name: replace(model, digest="d") for name, model in plain.models.items()}
    sut = scheduler(replace(plain, models=shared))
    (held,) = leases(sut.submit(asks("held", "m"), 0.0))
    sut.submit(asks("low", "n", priority=1), 1.0)
    sut.submit(asks("high", "m", priority=9), 2.0)
    assert [lease.request_id for lease in leases(sut.release(held, 3.0))] == ["high"]


def test_who_was_at_its_limit_starts_elsewhere_as_soon_as_it_is_not() -> None:
    sut = scheduler(view("a", "n"), view("b", "m"), cap=1)
    (held,) = leases(sut.submit(asks("held", "n", caller="x"), 0.0))
    assert sut.submit(asks("next", "m", caller="x"), 1.0) == []
    assert [lease.node_id for lease in leases(sut.release(held, 2.0))] == ["b"]


def test_who_has_no_node_left_but_those_that_failed_is_refused_like_the_others() -> None:
    sut = scheduler(view("a", "m"), view("b", "m"))
    for name in ("r1", "r2"):
        sut.submit(asks(name), 0.0)
    again = asks("again", excluded=frozenset({"a"}))
    assert sut.submit(again, 0.0) == []
    assert sut.submit(asks("other"), 0.0) == []
    sut.node_removed("b")
    assert sut.tick(1.0) == []
    assert sut.tick(1.0 + STRANDED_S - 0.1) == []
    assert refused(sut.tick(1.0 + STRANDED_S)) == ["again"]
    assert not sut._stranded_since


def test_a_node_that_comes_back_in_time_strands_nobody() -> None:
    sut = scheduler(view("a", "m"), view("b", "m"))
    for name in ("r1", "r2"):
        sut.submit(asks(name), 0.0)
    sut.submit(asks("again", excluded=frozenset({"a"})), 0.0)
    sut.node_changed(view("b", "m", state=NodeState.UNHEALTHY), 0.0)
    sut.tick(1.0)
    sut.node_changed(view("b", "m"), 2.0)
    assert sut.tick(1.0 + STRANDED_S) == []
    assert not sut._stranded_since


def test_a_request_is_charged_once_however_often_it_is_tried() -> None:
    def start_of_the_next(excluded: frozenset[str]) -> float:
        sut = scheduler(*(view(name, "m") for name in "abcd"))
        sut.submit(asks("r1", caller="x"), 0.0)
        sut.submit(asks("r1", caller="x", excluded=excluded), 0.0)
        return sut._fair.start(asks("r2", caller="x"))

    first = scheduler(*(view(name, "m") for name in "abcd"))
    first.submit(asks("r1", caller="x"), 0.0)
    once = first._fair.start(asks("r2", caller="x"))
    assert once > 0.0
    assert start_of_the_next(frozenset({"a"})) == once


def test_slots_that_are_used_since_before_the_model_left_the_memory_are_taken() -> None:
    sut = scheduler(view("a", "m", slots=2))
    held = [leases(sut.submit(asks(f"r{n}"), 0.0))[0] for n in range(2)]
    nodes_of(sut)["a"].by_model["m"].unload()
    assert sut.submit(asks("r3"), 1.0) == []
    assert [lease.request_id for lease in leases(sut.release(held[0], 2.0))] == ["r3"]


def test_what_a_node_evaluated_is_remembered_only_while_it_is_there() -> None:
    sut = scheduler(view("a", "m"))
    (held,) = leases(sut.submit(asks("r1", ask=Ask(conversation=7)), 0.0))
    sut.node_removed("a")
    sut.release(held, 1.0, Measured(prompt_tokens=100, output_tokens=9, total_s=1.0))
    assert sut._fleet.shared.homes == {}


@pytest.mark.parametrize("engine", list(Engine))
def test_options_mean_a_load_on_ollama_only(engine: Engine) -> None:
    sut = scheduler(replace(view("a", "m", slots=2, resident="m"), engine=engine))
    larger = Ask(options=(("num_ctx", 8192),))
    (held,) = leases(sut.submit(asks("r1", ask=larger), 0.0))
    assert held.loads == (engine is Engine.OLLAMA)
    shape = nodes_of(sut)["a"].by_model["m"].shape
    assert shape == ("m", larger.options if engine is Engine.OLLAMA else ())


@pytest.mark.parametrize("policy", POLICIES)
def test_who_looks_changes_nothing(policy: str) -> None:
    def went(*, looks: bool) -> list[str]:
        views = [view(f"n{n}", "m", slots=2, resident="m") for n in range(6)]
        sut = Scheduler(SchedulerLimits(50, policy, explore_share=0.5), Random(3))
        for each in views:
            sut.node_changed(each, 0.0)
        play = Play(sut)
        if looks:
            play.watch = lambda: _look(sut, play.now)
        play.run([asks(f"r{n}", at=n * 0.3, caller=f"c{n}") for n in range(60)], 500.0)
        return [f"{name} {at} {lease.node_id}" for name, (at, lease) in play.granted.items()]

    assert went(looks=True) == went(looks=False)


def _look(sut: Scheduler, now: float) -> None:
    for _ in range(3):
        sut.preview(asks("look", at=now), now)
    sut.queued(now, 10)
    sut.estimates()
    sut.statistics()


def test_a_full_queue_keeps_those_whose_turn_comes_first_whoever_came_first() -> None:
    """One caller's flood does not keep another's request out, though both are as urgent."""
    sut = scheduler(view("a", "m", resident="m"), queue=10)
    flood = [asks(f"f{n}", caller="flood") for n in range(11)]
    (held, *_) = [lease for each in flood for lease in leases(sut.submit(each, 0.0))]
    assert refused(sut.submit(asks("other", at=1.0, caller="x"), 1.0)) == ["f10"]
    assert leases(sut.release(held, 2.0))[0].request_id in {"f1", "other"}


def test_who_leaves_the_queue_has_asked_for_nothing() -> None:
    sut = scheduler(view("a", "m", resident="m"))
    (held,) = leases(sut.submit(asks("r", caller="x"), 0.0))
    for number in range(200):
        sut.submit(asks(f"f{number}", caller="flood"), 0.0)
    for number in range(200):
        assert sut.cancel(f"f{number}")
    sut.submit(asks("theirs", at=1.0, caller="y"), 1.0)
    sut.submit(asks("mine", at=0.5, caller="flood"), 1.0)
    assert leases(sut.release(held, 2.0))[0].request_id == "mine"


def test_absurd_numbers_of_a_node_are_not_believed() -> None:
    sut = scheduler(view("a", "m", resident="m"))
    before = sut.preview(asks("p"), 0.0).options[0].terms
    for number, odd in enumerate((2**52, 10**9)):
        (lease,) = leases(sut.submit(asks(f"r{number}"), 0.0))
        sut.release(
            lease, 1.0, Measured(output_tokens=odd, output_s=1e-9, prompt_s=1e300, total_s=1.0)
        )
    assert sut.preview(asks("p"), 1.0).options[0].terms == before


@pytest.mark.parametrize("policy", ["round_robin", "least_in_flight", "random"])
def test_callers_share_fairly_under_every_policy(policy: str) -> None:
    sut = Scheduler(SchedulerLimits(1000, policy), Random(1))
    sut.node_changed(view("a", "m", resident="m"), 0.0)
    (lease,) = [x for n in range(60) for x in leases(sut.submit(asks(f"f{n}", caller="f"), 0.0))]
    sut.submit(asks("other", at=20.0, caller="x"), 20.0)
    served: list[str] = []
    while len(served) < 60:
        (lease,) = leases(sut.release(lease, 21.0 + len(served)))
        served.append(lease.request_id)
    assert served.index("other") < 30


def test_slots_are_left_free_beside_urgent_requests_only_while_few_wait() -> None:
    sut = scheduler(view("a", "m", slots=4, resident="m"), queue=6)
    urgent = leases(sut.submit(asks("urgent", priority=9), 0.0))
    for n in range(3):
        assert leases(sut.submit(asks(f"r{n}", at=0.1), 0.1)) == []
    assert leases(sut.tick(0.2)) == []
    assert leases(sut.submit(asks("r3", at=0.3), 0.3)) == []  # more than half of the queue
    begun = leases(sut.tick(0.4))
    assert [lease.request_id for lease in begun] == ["r0"]  # so that no more than half wait
    assert leases(sut.tick(0.5)) == []
    held = urgent + begun
    while held:
        held += leases(sut.release(held.pop(), 1.0))
    assert_clean(sut, 2.0)


def test_those_who_mean_to_run_on_a_free_node_do_so_however_many_before_them_wait_for_another() -> (
    None
):
    sut = scheduler(view("fast", "m", resident="m"), view("slow", "m", resident="m"))
    for name, decode_s in (("fast", 0.01), ("slow", 0.08)):
        runner = nodes_of(sut)[name].by_model["m"]
        runner.decode_s, runner.prefill_s = decode_s, 0.0
        runner.update_columns()
    held = [lease for n in range(40) for lease in leases(sut.submit(asks(f"r{n:02}"), 0.0))]
    on_slow = next(lease for lease in held if lease.node_id == "slow")
    begun = leases(sut.release(on_slow, 0.1))
    assert [lease.node_id for lease in begun] == ["slow"]
    assert begun[0].request_id > "r05"  # those before it have their answer sooner on the other one
    held = [lease for lease in held if lease is not on_slow] + begun
    while held:
        held += leases(sut.release(held.pop(), 1.0)) + leases(sut.tick(1.0))
    assert_clean(sut, 2.0)
