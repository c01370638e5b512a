"""When a node is given work: by probes, and by how requests fare there."""

from random import Random

import pytest

from sollol.nodes.health import (
    CAME_BACK,
    NOT_PROBED,
    Blame,
    Circuit,
    Health,
    HealthLimits,
    ejection_s,
)
from sollol.types import NodeState

UP, DOWN = NodeState.HEALTHY, NodeState.UNHEALTHY
OUT, TRIAL = NodeState.EJECTED, NodeState.HALF_OPEN


class Even(Random):
    """Always the middle of what is possible."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def healthy(**limits: float) -> Health:
    health = Health(HealthLimits(**limits), Even())  # type: ignore[arg-type]
    health.probe_succeeded(0.0)
    return health


def failed(health: Health, count: int, now: float, blame: Blame = Blame.NODE) -> Health:
    for _ in range(count):
        health.request_failed(blame, "m", "it broke", now)
    return health


@pytest.mark.parametrize(
    ("ejections", "seconds"),
    [(0, 0.0), (1, 5.0), (2, 10.0), (3, 20.0), (5, 80.0), (6, 120.0), (10**9, 120.0)],
)
def test_ejections_grow_up_to_a_limit(ejections: int, seconds: float) -> None:
    assert ejection_s(ejections, 5.0, 120.0) == seconds


def test_a_node_is_unhealthy_until_a_probe_has_succeeded() -> None:
    health = Health(HealthLimits(), Even())
    assert (health.state, health.last_error) == (DOWN, NOT_PROBED)
    health.probe_succeeded(0.0)
    assert (health.state, health.last_error) == (UP, "")


def test_some_failed_probes_in_a_row_make_it_unhealthy() -> None:
    health = healthy(fall=2)
    health.probe_failed("slow", 1.0, is_refused=False)
    health.probe_succeeded(2.0)
    health.probe_failed("slow", 3.0, is_refused=False)
    assert health.state is UP
    health.probe_failed("slow", 4.0, is_refused=False)
    assert (health.state, health.last_error) == (DOWN, "slow")


def test_some_good_probes_in_a_row_make_it_healthy() -> None:
    health = Health(HealthLimits(rise=2), Even())
    states = []
    for second, is_good in enumerate([True, False, True, True]):
        if is_good:
            health.probe_succeeded(second)
        else:
            health.probe_failed("slow", second, is_refused=False)
        states.append(health.state)
    assert states == [DOWN, DOWN, DOWN, UP]


@pytest.mark.parametrize("by_probe", [True, False])
def test_a_refused_connection_makes_it_unhealthy_at_once(by_probe: bool) -> None:
    health = healthy()
    if by_probe:
        health.probe_failed("refused", 1.0, is_refused=True)
    else:
        health.request_failed(Blame.AT_ONCE, "m", "refused", 1.0)
    assert (health.state, health.last_error) == (DOWN, "refused")
    health.probe_succeeded(2.0)
    assert (health.state, health.last_error, health.ejections_total) == (UP, "", 0)


def test_failed_requests_in_a_row_eject_it_whatever_probes_say() -> None:
    health = failed(healthy(), 3, 1.0)
    health.probe_succeeded(2.0)
    assert (health.state, health.last_error) == (OUT, "it broke")
    assert health.ejections_total == 1


def test_a_success_between_failures_starts_the_count_anew() -> None:
    health = failed(healthy(), 2, 1.0)
    was_troubled = health.is_troubled
    health.request_succeeded("m", 1.5)
    assert (was_troubled, health.is_troubled) == (True, False)
    assert failed(health, 2, 2.0).state is UP


def test_silence_counts_half() -> None:
    assert failed(healthy(), 5, 1.0, Blame.HALF).state is UP
    assert failed(healthy(), 6, 1.0, Blame.HALF).state is OUT


def test_an_ejected_node_is_tried_after_a_while_and_closed_by_a_success() -> None:
    health = failed(healthy(), 3, 0.0)
    health.pass_time(4.9)
    assert health.state is OUT
    health.request_succeeded("m", 4.95)  # sent before it was ejected
    assert health.state is OUT
    health.pass_time(5.0)
    assert health.state is TRIAL
    health.request_succeeded("m", 6.0)
    assert (health.state, health.last_error) == (UP, "")


def test_a_failed_trial_ejects_it_for_longer() -> None:
    health = failed(healthy(), 3, 0.0)
    health.pass_time(5.0)
    failed(health, 1, 5.0)
    health.pass_time(14.9)
    assert health.state is OUT
    health.pass_time(15.0)
    assert (health.state, health.ejections_total) == (TRIAL, 2)


def test_failures_of_requests_sent_before_do_not_prolong_an_ejection() -> None:
    health = failed(healthy(), 3, 0.0)
    failed(health, 5, 4.0)
    health.pass_time(5.0)
    assert health.state is TRIAL


def test_an_ejection_long_ago_is_forgotten() -> None:
    gate = Circuit(HealthLimits(), Even())
    gate.open(0.0)
    gate.pass_time(5.0)
    gate.succeeded(5.0)
    gate.open(126.0)
    assert (gate.ejections, gate.until) == (1, 131.0)


def test_jitter_is_a_fifth_at_most() -> None:
    rng = Random(1)
    for _ in range(100):
        gate = Circuit(HealthLimits(), rng)
        gate.open(0.0)
        assert 4.0 <= gate.until <= 6.0


def test_one_model_fails_alone() -> None:
    health = failed(healthy(), 3, 0.0, Blame.MODEL)
    assert (health.state, health.limited()) == (UP, {"m": OUT})
    health.pass_time(5.0)
    assert health.limited() == {"m": TRIAL}
    health.request_succeeded("other", 6.0)
    assert health.limited() == {"m": TRIAL}
    health.request_succeeded("m", 6.0)
    assert health.limited() == {}
    assert health.ejections_total == 1


def test_two_models_that_fail_are_the_node() -> None:
    health = failed(healthy(), 3, 0.0, Blame.MODEL)
    for _ in range(3):
        health.request_failed(Blame.MODEL, "n", "it broke", 1.0)
    assert (health.state, health.limited()) == (OUT, {})
    assert health.ejections_total == 2


def test_models_that_failed_once_are_forgotten() -> None:
    health = failed(healthy(), 1, 0.0, Blame.MODEL)
    health.request_succeeded("m", 1.0)
    health.pass_time(130.0)
    health.pass_time(140.0)
    assert (health.limited(), health.is_troubled) == ({}, False)


def test_a_node_that_was_gone_and_is_back_starts_anew() -> None:
    health = failed(healthy(), 3, 0.0)
    health.probe_failed("refused", 0.5, is_refused=True)
    assert health.state is DOWN
    health.probe_succeeded(1.0)
    assert health.state is UP


def test_a_node_that_comes_and_goes_is_given_less_and_less() -> None:
    health = healthy()
    states = []
    for second in range(0, 40, 2):
        health.pass_time(second)
        states.append(health.state)
        if health.state in (UP, TRIAL):
            health.request_failed(Blame.AT_ONCE, "m", "refused", second)
        health.probe_succeeded(second + 1.0)
    assert states.count(OUT) > states.count(UP) + states.count(TRIAL)


def test_a_node_is_refused_once_however_many_requests_say_so() -> None:
    health = failed(healthy(), 20, 1.0, Blame.AT_ONCE)
    health.probe_succeeded(2.0)
    assert health.state is UP


def test_a_model_rests_for_as_long_as_the_node_asks() -> None:
    health = healthy()
    health.rest("m", 0.0, 30.0)
    health.pass_time(29.0)
    assert health.limited() == {"m": OUT}
    health.pass_time(30.0)
    assert (health.limited(), health.ejections_total) == ({"m": TRIAL}, 0)


def test_a_model_that_rests_is_no_fault_that_makes_another_ones_the_nodes() -> None:
    health = healthy()
    health.rest("n", 0.0, 30.0)
    failed(health, 3, 1.0, Blame.MODEL)
    assert (health.state, health.limited()) == (UP, {"n": OUT, "m": OUT})


def test_a_rest_does_not_shorten_an_ejection() -> None:
    health = failed(healthy(eject_s=60.0), 3, 0.0, Blame.MODEL)
    health.rest("m", 1.0, 2.0)
    health.pass_time(10.0)
    assert health.limited() == {"m": OUT}


def test_an_ejection_also_ends_while_the_node_is_down() -> None:
    health = healthy()
    for second in (1.0, 3.0):
        health.probe_failed("refused", second, is_refused=True)
        health.probe_succeeded(second + 1.0)
    health.probe_failed("refused", 20.0, is_refused=True)
    assert health.is_troubled  # or nobody would tell it that time passes
    health.pass_time(200.0)
    health.probe_succeeded(201.0)
    assert health.state is TRIAL


def test_a_node_that_is_back_on_trial_is_not_said_to_be_gone() -> None:
    health = Health(HealthLimits(), Even())
    for second in (0.0, 3.0):
        health.probe_succeeded(second)
        health.request_failed(Blame.AT_ONCE, "m", "refused", second + 1.0)
        assert health.last_error == "refused"
    health.probe_succeeded(6.0)
    assert (health.state, health.last_error) == (OUT, CAME_BACK)
    health.pass_time(30.0)
    health.request_succeeded("m", 31.0)
    assert (health.state, health.last_error) == (UP, "")


def test_failures_of_a_model_are_remembered_whenever_the_clock_began() -> None:
    health = healthy()
    for second in range(3):
        health.request_failed(Blame.MODEL, "m", "it broke", 1e6 + second)
        health.pass_time(1e6 + second + 0.25)
    assert health.limited() == {"m": OUT}


@pytest.mark.parametrize("blame", [Blame.NODE, Blame.MODEL])
def test_a_trial_is_over_when_its_answer_begins_and_lost_when_it_breaks(blame: Blame) -> None:
    health = failed(healthy(), 3, 0.0, blame)
    health.request_begun("m", 4.0)  # sent before it was ejected
    assert OUT in (health.state, health.limited().get("m"))
    health.pass_time(5.0)
    health.request_begun("m", 6.0)
    assert (health.state, health.limited(), health.is_troubled) == (UP, {}, True)
    failed(health, 1, 7.0, blame)
    health.pass_time(16.9)
    assert OUT in (health.state, health.limited().get("m"))
    health.pass_time(17.0)
    assert TRIAL in (health.state, health.limited().get("m"))


def test_a_trial_that_ends_well_starts_the_count_anew() -> None:
    health = failed(healthy(), 3, 0.0)
    health.pass_time(5.0)
    health.request_begun("m", 6.0)
    health.request_succeeded("m", 7.0)
    assert not health.is_troubled
    assert failed(health, 2, 8.0).state is UP
