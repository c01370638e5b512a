"""The scheduler, event by event."""

from dataclasses import replace
from random import Random

import pytest
from msgspec import structs

from sollol.errors import ModelNotFound, NoNodeAvailable, QueueFull, QueueTimeout
from sollol.scheduling.decision import Effect, Grant, Refusal
from sollol.scheduling.fleet import Fleet
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.rates import RateBook
from sollol.scheduling.scheduler import STRANDED_S, Scheduler
from sollol.types import (
    Ask,
    Engine,
    Lease,
    Model,
    NodeState,
    NodeView,
    Resident,
    RouteRequest,
)


def node(name: str, *models: str, slots: int = 1, resident: tuple[str, ...] = ()) -> NodeView:
    return NodeView(
        id=name,
        url=f"http://{name}",
        engine=Engine.OLLAMA,
        state=NodeState.HEALTHY,
        slots=slots,
        models={model: Model(model, model) for model in models},
        resident={model: Resident(model, model) for model in resident},
    )


def request(name: str, model: str = "m", at: float = 0.0) -> RouteRequest:
    return RouteRequest(name, model, arrived_at=at, expires_at=at + 100)


def scheduler(*nodes: NodeView, queue: int = 10, policy: str = "resident_first") -> Scheduler:
    made = Scheduler(SchedulerLimits(queue, policy), Random(1))
    for view in nodes:
        made.node_changed(view, 0.0)
    return made


def lease_of(effects: list[Effect]) -> Lease:
    (effect,) = effects
    assert isinstance(effect, Grant)
    return effect.lease


def error_of(effects: list[Effect]) -> Exception:
    (effect,) = effects
    assert isinstance(effect, Refusal)
    return effect.error


def test_a_free_slot_is_granted_at_once() -> None:
    sut = scheduler(node("a", "m"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    assert (lease.node_id, lease.runner, lease.queue_wait_s) == ("a", "m", 0.0)
    assert sut.statistics().in_flight == {"a": 1}


def test_requests_wait_for_a_slot_in_arrival_order() -> None:
    sut = scheduler(node("a", "m"))
    first = lease_of(sut.submit(request("r1"), 0.0))
    assert sut.submit(request("r2", at=1.0), 1.0) == []
    assert sut.submit(request("r3", at=2.0), 2.0) == []
    second = lease_of(sut.release(first, 5.0))
    assert (second.request_id, second.queue_wait_s) == ("r2", 4.0)
    third = lease_of(sut.release(second, 6.0))
    assert third.request_id == "r3"
    assert sut.release(third, 7.0) == []
    assert sut.statistics().in_flight == {}


def test_slots_are_counted_for_each_model() -> None:
    sut = scheduler(node("a", "m", "n"))
    lease_of(sut.submit(request("r1", "m"), 0.0))
    lease_of(sut.submit(request("r2", "n"), 0.0))
    assert sut.submit(request("r3", "m"), 0.0) == []


def aliased(name: str, **digests: str) -> NodeView:
    models = {model: Model(model, model, digest) for model, digest in digests.items()}
    return replace(node(name), models=models)


def test_two_names_of_one_digest_share_their_slots() -> None:
    sut = scheduler(aliased("a", m="d1", n="d1", o="d2"))
    held = lease_of(sut.submit(request("r1", "m"), 0.0))
    assert sut.submit(request("r2", "n"), 0.0) == []
    lease_of(sut.submit(request("r3", "o"), 0.0))
    assert lease_of(sut.release(held, 1.0)).request_id == "r2"


def test_a_shared_slot_goes_to_who_waits_longest_under_any_name() -> None:
    sut = scheduler(aliased("a", m="d1", n="d1"))
    lease = lease_of(sut.submit(request("r1", "m"), 0.0))
    for place, model in enumerate(("n", "m", "n", "m"), start=2):
        assert sut.submit(request(f"r{place}", model, at=place), place) == []
    served = []
    for _ in range(4):
        lease = lease_of(sut.release(lease, 9.0))
        served.append(lease.request_id)
    assert served == ["r2", "r3", "r4", "r5"]


def test_names_share_slots_only_on_nodes_where_they_share_a_digest() -> None:
    sut = scheduler(aliased("a", m="d1", n="d1"), aliased("b", n="d2"))
    held = lease_of(sut.submit(request("r1", "m"), 0.0))
    elsewhere = lease_of(sut.submit(request("r2", "n"), 0.0))
    assert (held.node_id, elsewhere.node_id) == ("a", "b")
    assert sut.submit(request("r3", "n"), 0.0) == []
    assert sut.submit(request("r4", "m"), 0.0) == []
    assert lease_of(sut.release(elsewhere, 1.0)).request_id == "r3"
    assert lease_of(sut.release(held, 1.0)).request_id == "r4"


def test_a_lease_of_a_digest_that_was_replaced_holds_no_slot_of_the_new_one() -> None:
    sut = scheduler(aliased("a", m="d1"))
    old = lease_of(sut.submit(request("r1"), 0.0))
    sut.node_changed(aliased("a", m="d2"), 1.0)
    lease_of(sut.submit(request("r2"), 1.0))
    assert sut.submit(request("r3"), 1.0) == []
    assert sut.release(old, 2.0) == []


def test_an_outvoted_node_gets_no_request_for_the_model() -> None:
    sut = scheduler(node("a", "m"), replace(node("b", "m", "n"), outvoted=frozenset({"m"})))
    assert lease_of(sut.submit(request("r1"), 0.0)).node_id == "a"
    assert sut.submit(request("r2"), 0.0) == []
    assert lease_of(sut.submit(request("r3", "n"), 0.0)).node_id == "b"
    assert lease_of(sut.node_changed(node("b", "m", "n"), 1.0)).node_id == "b"


def test_a_resident_model_goes_before_an_idle_node() -> None:
    sut = scheduler(node("cold", "m", slots=4), node("warm", "m", "n", slots=4, resident=("m",)))
    lease_of(sut.submit(request("other", "n"), 0.0))
    for number in range(4):
        assert lease_of(sut.submit(request(f"r{number}"), 0.0)).node_id == "warm"
    assert lease_of(sut.submit(request("r9"), 0.0)).node_id == "cold"


def test_of_equal_nodes_the_one_with_less_work_is_chosen_and_ties_are_random() -> None:
    warm = ("m",)
    sut = scheduler(node("a", "m", slots=9, resident=warm), node("b", "m", slots=9, resident=warm))
    chosen = [lease_of(sut.submit(request(f"r{n}"), 0.0)).node_id for n in range(2)]
    assert sorted(chosen) == ["a", "b"]
    firsts = set()
    for seed in range(20):
        fresh = Scheduler(SchedulerLimits(1, "resident_first"), Random(seed))
        fresh.node_changed(node("a", "m"), 0.0)
        fresh.node_changed(node("b", "m"), 0.0)
        firsts.add(lease_of(fresh.submit(request("r"), 0.0)).node_id)
    assert firsts == {"a", "b"}


def test_an_unknown_model_is_not_found_while_a_node_is_up() -> None:
    assert isinstance(
        error_of(scheduler(node("a", "m")).submit(request("r", "x"), 0)), ModelNotFound
    )


def test_without_a_node_that_is_up_the_answer_is_to_retry() -> None:
    down = replace(node("a"), state=NodeState.UNHEALTHY)
    for sut in (
        scheduler(),
        scheduler(down),
        scheduler(replace(down, models=node("a", "m").models)),
    ):
        error = error_of(sut.submit(request("r"), 0.0))
        assert isinstance(error, NoNodeAvailable)
        assert error.retry_after_s


def test_the_queue_is_bounded() -> None:
    sut = scheduler(node("a", "m"), queue=1)
    lease_of(sut.submit(request("r1"), 0.0))
    assert sut.submit(request("r2"), 0.0) == []
    error = error_of(sut.submit(request("r3"), 0.0))
    assert isinstance(error, QueueFull)
    assert error.status == 503


def test_who_waits_too_long_is_told_so() -> None:
    sut = scheduler(node("a", "m"))
    lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2", at=1.0), 1.0)
    assert sut.tick(100.9) == []
    assert isinstance(error_of(sut.tick(101.0)), QueueTimeout)
    assert sut.statistics().queue_length == 0


def test_who_waits_for_a_node_that_went_down_is_told_after_a_while() -> None:
    sut = scheduler(node("a", "m"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2"), 1.0)
    sut.node_changed(replace(node("a", "m"), state=NodeState.UNHEALTHY), 2.0)
    assert sut.release(lease, 2.0) == []
    assert sut.tick(3.0) == []
    assert sut.tick(17.9) == []
    assert isinstance(error_of(sut.tick(18.0)), NoNodeAvailable)


def test_a_node_that_comes_back_in_time_serves_who_waited() -> None:
    sut = scheduler(node("a", "m"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2"), 1.0)
    sut.node_changed(replace(node("a", "m"), state=NodeState.UNHEALTHY), 2.0)
    sut.release(lease, 2.0)
    assert sut.tick(3.0) == []
    assert lease_of(sut.node_changed(node("a", "m"), 10.0)).request_id == "r2"
    assert sut.tick(60.0) == []


def test_a_cancelled_request_is_not_granted() -> None:
    sut = scheduler(node("a", "m"))
    first = lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2"), 0.0)
    assert sut.cancel("r2")
    assert not sut.cancel("r2")
    assert sut.release(first, 1.0) == []


def test_a_lease_is_given_back_once() -> None:
    sut = scheduler(node("a", "m"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    sut.release(lease, 1.0)
    lease_of(sut.submit(request("r2"), 1.0))
    assert sut.release(lease, 2.0) == []
    assert sut.statistics().in_flight == {"a": 1}


def test_a_node_that_comes_up_serves_those_who_wait() -> None:
    sut = scheduler(node("a", "m"))
    lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2"), 0.0)
    assert lease_of(sut.node_changed(node("b", "m"), 1.0)).node_id == "b"


def test_a_draining_node_finishes_and_gets_nothing_new() -> None:
    sut = scheduler(node("a", "m", slots=2), node("b", "m", slots=2))
    held = lease_of(sut.submit(request("r1"), 0.0))
    drained = replace(node(held.node_id, "m", slots=2), state=NodeState.DRAINING)
    sut.node_changed(drained, 1.0)
    for number in range(2):
        assert lease_of(sut.submit(request(f"n{number}"), 1.0)).node_id != held.node_id
    sut.release(held, 2.0)


def test_who_waits_for_a_node_that_was_removed_is_told_that_nobody_has_the_model() -> None:
    sut = scheduler(node("a", "m"), node("b", "n"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    assert sut.submit(request("r2"), 0.0) == []
    sut.node_removed("a")
    assert sut.tick(1.0) == []
    assert isinstance(error_of(sut.tick(1.0 + STRANDED_S)), ModelNotFound)
    sut.release(lease, 20.0)


def test_a_removed_node_gets_nothing_and_its_leases_can_still_be_released() -> None:
    sut = scheduler(node("a", "m"), node("b", "n"))
    lease = lease_of(sut.submit(request("r1"), 0.0))
    sut.node_removed("a")
    assert isinstance(error_of(sut.submit(request("r2"), 0.0)), ModelNotFound)
    sut.release(lease, 1.0)
    assert sut.statistics().in_flight == {}


def test_a_node_that_failed_the_request_is_not_tried_again() -> None:
    sut = scheduler(node("a", "m"), node("b", "m"))
    again = structs.replace(request("r"), excluded=frozenset({"a"}))
    assert lease_of(sut.submit(again, 0.0)).node_id == "b"
    nowhere = structs.replace(request("r"), excluded=frozenset({"a", "b"}))
    assert isinstance(error_of(sut.submit(nowhere, 0.0)), NoNodeAvailable)


def test_a_request_that_takes_no_slot_does_not_wait_for_one() -> None:
    sut = scheduler(node("a", "m"))
    lease_of(sut.submit(request("r1"), 0.0))
    free = structs.replace(request("r2"), takes_slot=False)
    show = lease_of(sut.submit(free, 0.0))
    sut.release(show, 1.0)
    assert sut.submit(request("r3"), 1.0) == []


def test_a_request_id_waits_once() -> None:
    sut = scheduler(node("a", "m"))
    lease_of(sut.submit(request("r1"), 0.0))
    sut.submit(request("r2"), 0.0)
    with pytest.raises(ValueError, match="queued already"):
        sut.submit(request("r2"), 0.0)


class Rules:
    """Rules for models that a test changes."""

    def __init__(self, **pins: str) -> None:
        self.pins = pins
        self.denied: set[tuple[str, str]] = set()

    def is_allowed(self, node_id: str, model: str) -> bool:
        pins = self.pins.get(model, node_id)
        return node_id in pins and (node_id, model) not in self.denied

    def pinned_to(self, model: str) -> tuple[str, ...]:
        return tuple(self.pins.get(model, ()))


def ruled(rules: Rules, *nodes: NodeView) -> Scheduler:
    limits = SchedulerLimits(10, is_allowed=rules.is_allowed, pinned_to=rules.pinned_to)
    made = Scheduler(limits, Random(1))
    for view in nodes:
        made.node_changed(view, 0.0)
    return made


def test_a_model_goes_only_where_it_may_run() -> None:
    sut = ruled(Rules(m="b"), node("a", "m", "n"), node("b", "m"))
    assert lease_of(sut.submit(request("r1"), 0.0)).node_id == "b"
    assert sut.submit(request("r2"), 0.0) == []
    assert lease_of(sut.submit(request("r3", "n"), 0.0)).node_id == "a"
    assert sut.cancel("r2")


def test_of_a_pinned_model_the_nodes_are_named_that_are_not_up() -> None:
    down = replace(node("b", "m"), state=NodeState.UNHEALTHY)
    for sut in (
        ruled(Rules(m="b"), node("a", "m"), down),
        ruled(Rules(m="b"), node("a", "m")),
        ruled(Rules(m="b"), node("a", "m"), replace(down, models={})),
    ):
        error = error_of(sut.submit(request("r1"), 0.0))
        assert isinstance(error, NoNodeAvailable)
        assert str(error) == "no node that the model is pinned to is available (b)"


def test_a_pinned_model_that_its_nodes_do_not_have_is_not_found() -> None:
    sut = ruled(Rules(m="b"), node("a", "m"), node("b"))
    assert isinstance(error_of(sut.submit(request("r1"), 0.0)), ModelNotFound)


def test_a_model_that_no_node_may_run_is_not_found() -> None:
    rules = Rules()
    rules.denied = {("a", "m")}
    sut = ruled(rules, node("a", "m"))
    assert isinstance(error_of(sut.submit(request("r1"), 0.0)), ModelNotFound)


def test_a_pin_counts_for_more_than_the_digest_of_other_nodes() -> None:
    sut = ruled(Rules(m="a"), replace(node("a", "m"), outvoted=frozenset({"m"})), node("b", "m"))
    assert lease_of(sut.submit(request("r1"), 0.0)).node_id == "a"


def test_rules_that_change_serve_who_waits() -> None:
    rules = Rules(m="a")
    sut = ruled(
        rules, node("a", "m"), node("b", "m"), replace(node("c", "m"), state=NodeState.DRAINING)
    )
    assert sut.rules_changed(0.0) == []
    first = lease_of(sut.submit(request("r1"), 0.0))
    assert sut.submit(request("r2"), 0.0) == []
    rules.pins = {"m": "b"}
    second = lease_of(sut.rules_changed(1.0))
    assert (second.request_id, second.node_id) == ("r2", "b")
    rules.denied = {("a", "m"), ("b", "m"), ("c", "m")}
    rules.pins = {}
    assert sut.rules_changed(2.0) == []
    assert isinstance(error_of(sut.submit(request("r3"), 2.0)), ModelNotFound)
    assert sut.release(first, 3.0) == []
    assert sut.release(second, 3.0) == []


def with_options(name: str, **options: int) -> RouteRequest:
    return structs.replace(request(name), ask=Ask(options=tuple(options.items())))


def adapting(view: NodeView) -> Scheduler:
    made = Scheduler(SchedulerLimits(10, adapts_options=True), Random(1))
    made.node_changed(view, 0.0)
    return made


def test_the_loaded_models_options_are_sent_where_nothing_is_cut_short() -> None:
    sut = adapting(node("a", "m", slots=9))
    first = lease_of(sut.submit(with_options("r1", num_ctx=8192, num_gpu=20), 0.0))
    assert (first.loads, first.options) == (True, None)
    same = lease_of(sut.submit(with_options("r2", num_ctx=8192, num_gpu=20), 1.0))
    assert (same.loads, same.options) == (False, None)
    less = lease_of(sut.submit(with_options("r3", num_ctx=4096), 1.0))
    assert (less.loads, less.options) == (False, (("num_ctx", 8192), ("num_gpu", 20)))
    for lease in (first, same, less):
        sut.release(lease, 2.0)
    more = lease_of(sut.submit(with_options("r4", num_ctx=16384), 100.0))
    assert (more.loads, more.options) == (True, None)


def test_of_a_model_that_others_loaded_the_context_is_what_the_node_says() -> None:
    resident = {"m": Resident("m", "m", context_length=8192)}
    sut = adapting(replace(node("a", "m", slots=9), resident=resident))
    assert lease_of(sut.submit(with_options("r1", num_ctx=2048), 20.0)).options == (
        ("num_ctx", 8192),
    )
    assert lease_of(sut.submit(request("r2"), 20.0)).options is None


def test_a_model_loaded_with_the_default_context_serves_who_names_none() -> None:
    sut = adapting(node("a", "m", slots=9))
    assert lease_of(sut.submit(request("r1"), 0.0)).loads
    lease = lease_of(sut.submit(with_options("r2", num_gpu=10), 1.0))
    assert (lease.loads, lease.options) == (False, ())


def test_what_wants_an_unknown_context_or_is_no_ollama_is_left_as_it_is() -> None:
    sut = adapting(node("a", "m"))
    sut.release(lease_of(sut.submit(with_options("r1", num_ctx=8192), 0.0)), 1.0)
    lease = lease_of(sut.submit(with_options("r2", num_gpu=10), 100.0))
    assert (lease.loads, lease.options) == (True, None)
    sut = adapting(replace(node("a", "m"), engine=Engine.LLAMA_SERVER))
    sut.release(lease_of(sut.submit(with_options("r1", num_ctx=8192), 0.0)), 50.0)
    lease = lease_of(sut.submit(with_options("r2", num_ctx=4096), 100.0))
    assert (lease.loads, lease.options) == (False, None)


def test_options_that_do_not_count_load_nothing() -> None:
    made = Scheduler(SchedulerLimits(10, counts_options=False), Random(1))
    made.node_changed(node("a", "m", slots=2), 0.0)
    assert lease_of(made.submit(with_options("r1", num_ctx=8192), 0.0)).loads
    lease = lease_of(made.submit(with_options("r2", num_ctx=4096), 1.0))
    assert (lease.loads, lease.options) == (False, None)


def test_memory_of_a_node_can_be_told_later() -> None:
    fleet = Fleet(RateBook(), SchedulerLimits(10))
    assert fleet.change(node("a", "m"), 0.0).capacity.told_bytes is None
    told = fleet.change(replace(node("a", "m"), memory_bytes=5), 1.0)
    assert told.capacity.told_bytes == 5
