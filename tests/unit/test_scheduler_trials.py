"""Nodes that failed: what they are given, and when there is no other."""

from dataclasses import replace
from random import Random

import pytest

from sollol.scheduling.decision import Effect, Grant, Rule
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import HOUSEKEEPING_S, Scheduler
from sollol.scheduling.state import FULL_S
from sollol.types import Lease, NodeState, NodeView
from tests.scheduling import GB, asks, assert_books, assert_clean, leases, refused, view

UP, OUT, TRIAL = NodeState.HEALTHY, NodeState.EJECTED, NodeState.HALF_OPEN
DOWN, DRAINING = NodeState.UNHEALTHY, NodeState.DRAINING


def node(name: str, state: NodeState = UP, *models: str, slots: int = 4) -> NodeView:
    names = models or ("m",)
    return view(name, names, slots=slots, resident=names, state=state)


def limited(name: str, state: NodeState, *models: str) -> NodeView:
    return replace(node(name, UP, *models), limited={"m": state})


def scheduler(*views: NodeView, policy: str = "fastest") -> Scheduler:
    limits = SchedulerLimits(100, policy=policy)
    made = Scheduler(limits, Random(1))
    for each in views:
        made.node_changed(each, 0.0)
    assert_books(made)
    return made


def submitted(sut: Scheduler, count: int, model: str = "m", priority: int = 5) -> list[Effect]:
    """Return what becomes of requests that come at once."""
    return [
        effect
        for n in range(count)
        for effect in sut.submit(asks(f"{model}{n}", model, priority=priority), 1.0)
    ]


def nodes(effects: list[Effect]) -> list[str]:
    return [lease.node_id for lease in leases(effects)]


def end(sut: Scheduler, held: list[Lease]) -> None:
    """Release all, and those that they make room for."""
    while held:
        held += leases(sut.release(held.pop(0), 2.0)) + leases(sut.tick(2.0))
    assert_clean(sut, 3.0)


@pytest.mark.parametrize("shut", [node("a", OUT), limited("a", OUT)])
def test_what_is_ejected_gets_nothing_while_there_is_another(shut: NodeView) -> None:
    sut = scheduler(shut, node("b"))
    granted = submitted(sut, 4)
    assert nodes(granted) == ["b"] * 4
    end(sut, leases(granted))


@pytest.mark.parametrize("half_open", [node("a", TRIAL), limited("a", TRIAL)])
@pytest.mark.parametrize("policy", ["fastest", "least_in_flight"])
def test_what_is_half_open_gets_one_at_a_time(half_open: NodeView, policy: str) -> None:
    sut = scheduler(half_open, node("b", slots=1), policy=policy)
    granted = submitted(sut, 5)
    assert sorted(nodes(granted)) == ["a", "b"]
    on_a = next(lease for lease in leases(granted) if lease.node_id == "a")
    more = sut.release(on_a, 2.0)
    assert nodes(more) == ["a"]
    end(sut, leases(granted) + leases(more))


def test_the_first_request_that_can_shows_whether_it_works_again() -> None:
    sut = scheduler(node("a", TRIAL), node("b"))
    granted = submitted(sut, 2)
    decisions = [effect.decision for effect in granted if isinstance(effect, Grant)]
    rules = {decision.chosen: decision.rule for decision in decisions if decision}
    assert rules == {"a": Rule.TRIAL, "b": Rule.COST}
    end(sut, leases(granted))


def test_urgent_requests_are_spared() -> None:
    sut = scheduler(node("a", TRIAL), node("b"))
    granted = submitted(sut, 3, priority=6)
    assert nodes(granted).count("a") <= 1  # by its cost, not by rule
    decisions = [effect.decision for effect in granted if isinstance(effect, Grant)]
    assert all(decision and decision.rule is Rule.COST for decision in decisions)
    end(sut, leases(granted))


def test_a_trial_is_not_made_at_any_price() -> None:
    cold = view("a", {"m": 500 * GB}, state=TRIAL)
    sut = scheduler(cold, node("b"))
    assert nodes(submitted(sut, 1)) == ["b"]


def test_one_that_was_tried_in_vain_is_not_tried_again() -> None:
    sut = scheduler(node("a", TRIAL), node("b"))
    request = asks("x", excluded=frozenset({"a"}))
    assert nodes(sut.submit(request, 1.0)) == ["b"]


def test_a_node_that_failed_the_request_is_no_trial_for_it() -> None:
    sut = scheduler(node("a", TRIAL), node("b"))
    request = asks("x", avoided=frozenset({"a"}))
    assert nodes(sut.submit(request, 1.0)) == ["b"]


@pytest.mark.parametrize("policy", ["fastest", "least_in_flight"])
def test_what_is_avoided_is_used_while_there_is_no_other(policy: str) -> None:
    sut = scheduler(node("a", slots=1), node("b", DOWN), policy=policy)
    first, second, third = (asks(name, avoided=frozenset({"a"})) for name in ("x", "y", "z"))
    granted = sut.submit(first, 1.0)
    assert nodes(granted) == ["a"]
    assert not sut.submit(second, 1.0)
    assert not sut.submit(third, 1.0)
    effects = sut.node_changed(node("b", slots=1), 1.5)
    assert nodes(effects) == ["b"]
    assert not sut.release(leases(granted)[0], 1.6), "it waits for the other, as long as that is up"
    effects += sut.node_changed(node("b", DOWN), 1.7)
    assert nodes(effects) == ["b", "a"]
    end(sut, leases(effects))


def test_what_is_avoided_is_used_while_the_others_are_busy_with_their_trials() -> None:
    sut = scheduler(node("a"), node("b", TRIAL))
    granted = sut.submit(asks("x", excluded=frozenset({"a"})), 1.0)
    assert nodes(granted) == ["b"]
    more = sut.submit(asks("y", avoided=frozenset({"a"})), 1.0)
    assert nodes(more) == ["a"]
    end(sut, leases(granted) + leases(more))


def test_all_models_of_a_half_open_node_share_its_one_request() -> None:
    sut = scheduler(node("a", TRIAL, "m", "n"))
    granted = submitted(sut, 1) + submitted(sut, 1, "n")
    assert nodes(granted) == ["a"]
    end(sut, leases(granted))


def test_other_models_of_a_node_are_not_limited() -> None:
    sut = scheduler(limited("a", TRIAL, "m", "n"))
    granted = submitted(sut, 2, "n") + submitted(sut, 2)
    assert nodes(granted) == ["a"] * 3
    end(sut, leases(granted))


@pytest.mark.parametrize("shut", [node("a", OUT), limited("a", OUT)])
def test_the_last_that_has_a_model_gets_one_at_a_time_though_it_is_ejected(shut: NodeView) -> None:
    sut = scheduler(shut, node("b", UP, "other"))
    granted = submitted(sut, 3)
    assert nodes(granted) == ["a"]
    end(sut, leases(granted))


def test_the_last_resort_ends_when_another_comes() -> None:
    sut = scheduler(node("a", OUT), node("b", OUT))
    granted = submitted(sut, 4)
    assert sorted(nodes(granted)) == ["a", "b"]
    effects = sut.node_changed(node("b"), 1.5)
    assert_books(sut)
    assert set(nodes(effects)) == {"b"}
    end(sut, leases(granted) + leases(effects))


def test_the_last_resort_begins_when_the_others_go() -> None:
    sut = scheduler(node("a", OUT), node("b"), node("c"))
    sut.node_changed(node("b", DOWN), 0.5)
    sut.node_removed("c")
    assert_books(sut)
    granted = submitted(sut, 2)
    assert nodes(granted) == ["a"]
    end(sut, leases(granted))


def test_a_node_that_is_ejected_as_the_last_one_goes_on_as_last_resort() -> None:
    sut = scheduler(node("a"))
    sut.node_changed(node("a", OUT), 0.5)
    assert_books(sut)
    granted = submitted(sut, 2)
    assert nodes(granted) == ["a"]
    assert leases(sut.node_changed(node("a", TRIAL), 1.5)) == []
    effects = sut.node_changed(node("a"), 1.6)
    assert nodes(effects) == ["a"]
    assert_books(sut)
    end(sut, leases(granted) + leases(effects))


@pytest.mark.parametrize("state", [DOWN, DRAINING])
def test_nodes_that_are_down_or_draining_are_no_last_resort(state: NodeState) -> None:
    sut = scheduler(node("a", state))
    assert refused(submitted(sut, 1)) == ["m0"]


def test_rules_decide_on_the_last_resort_too() -> None:
    denied = True
    limits = SchedulerLimits(100, is_allowed=lambda node_id, _: not (denied and node_id == "a"))
    sut = Scheduler(limits, Random(1))
    sut.node_changed(node("a", OUT), 0.0)
    assert refused(submitted(sut, 1)) == ["m0"]
    denied = False
    sut.rules_changed(0.5)
    assert_books(sut)
    granted = submitted(sut, 1)
    assert nodes(granted) == ["a"]
    end(sut, leases(granted))


def test_facts_of_a_model_are_read_from_a_node_on_trial_too() -> None:
    sut = scheduler(node("a", TRIAL))
    held = leases(submitted(sut, 1))
    facts = leases(sut.submit(asks("show", takes_slot=False), 1.0))
    assert [lease.node_id for lease in facts] == ["a"]
    end(sut, held + facts)


def test_a_node_that_says_it_is_full_gets_no_more_than_it_has_for_a_while() -> None:
    sut = scheduler(node("a", slots=4))
    held = leases(submitted(sut, 3))
    turned_away = held.pop()
    sut.full(turned_away, 1.0)
    assert leases(sut.release(turned_away, 1.0)) == []
    assert nodes(submitted(sut, 1, "m")) == []
    sut.node_changed(node("a", slots=4), 2.0)
    assert leases(sut.tick(2.0)) == []
    later = leases(sut.tick(1.0 + max(FULL_S, HOUSEKEEPING_S)))
    later += leases(sut.tick(1.5 + max(FULL_S, HOUSEKEEPING_S)))
    assert [lease.request_id for lease in later] == ["m0"]


def test_one_slot_is_left_to_a_node_that_is_full_of_others() -> None:
    sut = scheduler(node("a", slots=4))
    held = leases(submitted(sut, 1))
    sut.full(held[0], 1.0)
    sut.release(held[0], 1.0)
    granted = submitted(sut, 3)
    assert nodes(granted) == ["a"]
    sut.full(held[0], 1.0)  # of a lease that was given back: nothing
    end(sut, leases(granted))


def begun(sut: Scheduler, lease: Lease) -> list[Effect]:
    effects = sut.begun(lease, 1.5)
    assert_books(sut)
    return effects


@pytest.mark.parametrize("shut", [node("a", OUT), limited("a", OUT), node("a", TRIAL)])
def test_what_has_begun_to_answer_gets_all_it_has_slots_for(shut: NodeView) -> None:
    sut = scheduler(shut)
    granted = submitted(sut, 6)
    assert nodes(granted) == ["a"]
    assert leases(granted)[0].is_trial
    more = leases(begun(sut, leases(granted)[0]))
    assert [lease.is_trial for lease in more] == [False] * 3
    assert begun(sut, leases(granted)[0]) == begun(sut, more[0]) == []
    end(sut, leases(granted) + more)


def test_what_fails_after_it_began_to_answer_is_on_trial_again() -> None:
    sut = scheduler(node("a", OUT))
    (trial,) = leases(submitted(sut, 1))
    assert begun(sut, trial) == []
    held = leases(submitted(sut, 1, "m", priority=6))
    assert not held[0].is_trial
    assert leases(sut.release(trial, 1.6, has_failed=True)) == []
    again = leases(submitted(sut, 2))
    assert [lease.is_trial for lease in again] == [True]
    end(sut, held + again)


def test_what_was_sent_before_is_no_trial() -> None:
    sut = scheduler(node("a"))
    before = leases(submitted(sut, 2))
    sut.node_changed(node("a", TRIAL), 1.2)
    (trial,) = leases(sut.submit(asks("x"), 1.3) + sut.submit(asks("y"), 1.3))
    assert begun(sut, before[0]) == []
    more = leases(begun(sut, trial))
    assert [lease.request_id for lease in more] == ["y"]
    end(sut, [*before, trial, *more])


def test_each_model_of_a_half_open_node_shows_for_itself_that_it_works() -> None:
    sut = scheduler(node("a", TRIAL, "m", "n"))
    (trial,) = leases(submitted(sut, 2))
    assert submitted(sut, 2, "n") == []
    more = leases(begun(sut, trial))
    assert sorted((lease.runner, lease.is_trial) for lease in more) == [("m", False), ("n", True)]
    end(sut, [trial, *more])
