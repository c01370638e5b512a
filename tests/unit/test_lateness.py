"""When an answer is late, and how many copies may be sent."""

import pytest
from hypothesis import given, strategies as st

from sollol.gateway.lateness import (
    BURST,
    FORGET_S,
    LEAST,
    MAX_MODELS,
    SHARE,
    WINDOW,
    CopyBudget,
    Lateness,
)


def test_nothing_is_late_before_enough_is_known() -> None:
    lateness = Lateness()
    for _ in range(LEAST):
        assert lateness.late_s("m", 0.0) is None
        lateness.note("m", 0.1, 0.0)
    assert lateness.late_s("m", 0.0) == 0.1
    assert lateness.late_s("other", 0.0) is None


@pytest.mark.parametrize(("known", "slower"), [(20, 1), (40, 2), (64, 3), (100, 3)])
def test_late_is_what_takes_longer_than_nearly_all(known: int, slower: int) -> None:
    lateness = Lateness()
    for number in range(known):
        lateness.note("m", float(number), 0.0)
    late_s = lateness.late_s("m", 0.0)
    assert late_s == known - 1 - slower


def test_only_the_latest_answers_count() -> None:
    lateness = Lateness()
    for seconds in (9.0, 1.0):
        for _ in range(WINDOW):
            lateness.note("m", seconds, 0.0)
    assert lateness.late_s("m", 0.0) == 1.0


def test_a_model_that_nobody_asks_for_is_forgotten() -> None:
    lateness = Lateness()
    for model, at in (("m", 0.0), ("n", 1.0)):
        for _ in range(LEAST):
            lateness.note(model, 0.1, at)
    assert lateness.late_s("m", FORGET_S - 1.0) == 0.1
    assert lateness.late_s("m", FORGET_S) is None
    assert lateness.late_s("n", FORGET_S) == 0.1
    lateness.note("m", 0.1, FORGET_S)
    assert lateness.late_s("m", FORGET_S) is None


def test_the_models_are_bounded() -> None:
    lateness = Lateness()
    for _ in range(LEAST):
        lateness.note("first", 0.1, 0.0)
    for number in range(MAX_MODELS):
        assert lateness.late_s("first", 0.0) == 0.1
        lateness.note(f"m{number}", 0.1, 0.0)
    assert lateness.late_s("first", 0.0) is None
    assert len(lateness._took) == MAX_MODELS


@given(st.lists(st.booleans(), max_size=2000), st.integers(0, 2000))
def test_of_any_requests_in_a_row_few_are_copied(wanted: list[bool], begin: int) -> None:
    budget = CopyBudget()
    copies = []
    for wants in wanted:
        budget.count()
        takes = wants and budget.has_one
        if takes:
            budget.take()
        copies.append(takes)
    row = copies[begin:]
    assert sum(row) <= BURST + SHARE * len(row) + 1e-6


def test_a_copy_may_be_sent_at_once() -> None:
    budget = CopyBudget()
    for _ in range(int(BURST)):
        assert budget.has_one
        budget.take()
    assert not budget.has_one
    for _ in range(int(1.0 / SHARE) + 1):
        budget.count()
    assert budget.has_one
