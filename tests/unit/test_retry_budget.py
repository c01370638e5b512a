"""How much may be tried again."""

from sollol.gateway.budget import WINDOW_S, RetryBudget


def test_some_retries_are_free() -> None:
    budget = RetryBudget(0.2, reserve=3)
    assert [budget.take(10_000.0, 0.0) for _ in range(5)] == [True] * 3 + [False] * 2


def test_requests_in_flight_pay_in_a_share_of_their_tokens() -> None:
    budget = RetryBudget(0.2, reserve=0)
    budget.begin(1000.0)
    assert budget.take(150.0, 0.0)
    assert not budget.take(60.0, 0.0)
    assert budget.take(50.0, 0.0)


def test_those_that_ended_lately_count_too() -> None:
    budget = RetryBudget(0.2, reserve=0)
    budget.pass_time(0.0)
    budget.begin(1000.0)
    budget.end(1000.0)
    assert budget.in_flight == 0.0
    assert budget.take(100.0, 9.0)
    for second in range(30):
        budget.pass_time(float(second))
    assert not budget.take(100.0, 30.0)


def test_what_was_taken_comes_back_after_a_while() -> None:
    budget = RetryBudget(0.0, reserve=1)
    assert budget.take(1.0, 0.0)
    assert not budget.take(1.0, WINDOW_S - 0.1)
    assert budget.take(1.0, WINDOW_S)


def test_a_long_request_counts_while_it_runs() -> None:
    budget = RetryBudget(0.2, reserve=0)
    budget.begin(1000.0)
    for second in range(100):
        budget.pass_time(float(second))
    assert budget.take(200.0, 100.0)
