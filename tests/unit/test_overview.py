"""What the scheduler shows of those who wait and of what it knows of nodes."""

from random import Random

import pytest

from sollol.errors import QueueFull
from sollol.scheduling.decision import Grant, Refusal
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.scheduler import Scheduler
from sollol.types import Engine, Measured, Model, NodeState, NodeView, RouteRequest


def a_scheduler(**limits: object) -> Scheduler:
    given = SchedulerLimits(**({"queue_max_length": 10} | limits))  # type: ignore[arg-type]
    scheduler = Scheduler(given, Random(0))
    models = {"m": Model("m", "m", "d1", 2_000_000_000)}
    view = NodeView("a", "http://a", Engine.OLLAMA, NodeState.HEALTHY, models=models)
    scheduler.node_changed(view, 0.0)
    return scheduler


def request(name: str, **fields: object) -> RouteRequest:
    given = {"model": "m", "arrived_at": 0.0, "expires_at": 1000.0} | fields
    return RouteRequest(name, **given)  # type: ignore[arg-type]


def granted(scheduler: Scheduler, name: str, now: float = 0.0) -> Grant:
    (effect,) = scheduler.submit(request(name), now)
    assert isinstance(effect, Grant)
    return effect


def test_those_who_wait_have_places_and_levels_that_grow_with_age() -> None:
    scheduler = a_scheduler()
    granted(scheduler, "first")
    assert scheduler.submit(request("low", priority=1, caller="x"), 1.0) == []
    assert scheduler.submit(request("high", priority=9), 1.0) == []
    high, low = scheduler.queued(21.0, 10)
    assert (high.request_id, high.position, high.priority) == ("high", 1, 9)
    assert (low.request_id, low.position, low.caller) == ("low", 2, "x")
    assert [high.level, low.level] == pytest.approx([11.1, 3.1])
    assert (high.waited_s, high.node_id, high.why) == (
        20.0,
        "a",
        "its slots are taken or spoken for",
    )
    assert high.predicted_wait_s is not None
    assert low.predicted_wait_s is not None
    assert low.predicted_wait_s > high.predicted_wait_s > 0
    assert scheduler.queued(21.0, 1) == [high]
    assert scheduler.find_queued("low", 21.0) == low
    assert scheduler.find_queued("first", 21.0) is None


def test_a_level_is_no_less_than_the_priority_and_grows_from_the_callers_turn() -> None:
    scheduler = a_scheduler()
    granted(scheduler, "first")
    for name in ("second", "third"):
        scheduler.submit(request(name), 0.0)
    assert [each.level for each in scheduler.queued(0.0, 10)] == [5.0, 5.0]
    second, third = scheduler.queued(30.0, 10)
    assert 5.0 < third.level < second.level < 8.0  # the first one was charged to the caller, too


def test_one_that_its_callers_limit_holds_back_says_so() -> None:
    scheduler = a_scheduler(max_in_flight_per_caller=1)
    granted(scheduler, "first")
    scheduler.submit(request("second"), 0.0)
    (second,) = scheduler.queued(1.0, 10)
    assert second.predicted_wait_s is None
    assert second.why == "its caller has as many requests in flight as it may"


def test_a_policy_without_seconds_predicts_no_wait() -> None:
    scheduler = a_scheduler(policy="round_robin")
    granted(scheduler, "first")
    scheduler.submit(request("second"), 0.0)
    (second,) = scheduler.queued(1.0, 10)
    assert (second.predicted_wait_s, second.node_id, second.why) == (None, "", "")


def test_looking_changes_nothing() -> None:
    scheduler = a_scheduler()
    first = granted(scheduler, "first")
    scheduler.submit(request("second"), 0.0)
    assert scheduler.queued(1.0, 10) == scheduler.queued(1.0, 10)
    assert scheduler.estimates() == scheduler.estimates()
    (effect,) = scheduler.release(first.lease, 2.0)
    assert isinstance(effect, Grant)
    assert effect.lease.request_id == "second"


def test_estimates_come_from_what_was_measured() -> None:
    scheduler = a_scheduler()
    (before,) = scheduler.estimates()
    assert (before.node_id, before.models[0].models, before.models[0].running) == ("a", ("m",), 0)
    lease = granted(scheduler, "first").lease
    (node,) = scheduler.estimates()
    assert (node.models[0].running, node.models[0].is_resident) == (1, True)
    measured = Measured(
        load_s=4.0, prompt_tokens=1000, prompt_s=0.5, output_tokens=100, output_s=2.0, total_s=6.6
    )
    scheduler.release(lease, 6.6, measured)
    (model,) = scheduler.estimates()[0].models
    assert (model.load_count, model.decode_count, model.prefill_count) == (1, 1, 1)
    assert model.decode_tokens_per_s == pytest.approx(50, rel=0.3)
    assert model.load_s == pytest.approx(4.0, rel=0.3)
    assert (model.decode_spread, model.prefill_spread, model.load_spread) == (None, None, None)


def test_estimates_tell_how_far_measurements_are_apart() -> None:
    scheduler = a_scheduler()
    for number, output_s in enumerate((1.0, 2.0)):
        now = 10.0 * number
        lease = granted(scheduler, f"r{number}", now).lease
        measured = Measured(output_tokens=100, output_s=output_s, total_s=output_s)
        scheduler.release(lease, now + output_s, measured)
    (model,) = scheduler.estimates()[0].models
    assert model.decode_count == 2
    assert model.decode_spread == pytest.approx(2**0.5**0.5)  # a half of the square of log(2)


def test_a_refusal_at_the_door_tells_the_predicted_wait() -> None:
    scheduler = a_scheduler(queue_max_length=0)
    granted(scheduler, "first")
    (effect,) = scheduler.submit(request("second"), 0.0)
    assert isinstance(effect, Refusal)
    assert isinstance(effect.error, QueueFull)
    assert "the predicted wait is" in str(effect.error)


def test_the_chosen_one_of_many_that_are_alike_is_shown() -> None:
    scheduler = Scheduler(SchedulerLimits(queue_max_length=10), Random(0))
    models = {"m": Model("m", "m", "d1", 2_000_000_000)}
    for number in range(40):
        node = f"n{number}"
        view = NodeView(
            node, f"http://{node}", Engine.OLLAMA, NodeState.HEALTHY, slots=40, models=models
        )
        scheduler.node_changed(view, 0.0)
    for number in range(40):
        decision = granted(scheduler, f"r{number}", float(number)).decision
        assert decision is not None
        assert len(decision.options) <= 8
        assert decision.chosen in {option.node_id for option in decision.options}
    waiting = scheduler.preview(request("preview"), 40.0)
    assert len(waiting.options) == 8
