"""What the journal keeps, for how long, and what it costs."""

from typing import Any

import msgspec
import pytest

from sollol.gateway.body import Body
from sollol.gateway.call import Call
from sollol.gateway.entries import Wanted
from sollol.gateway.journal import MAX_TEXT, MAX_TRIES, Journal, prediction
from sollol.gateway.outcome import Attempt, Outcome
from sollol.scheduling.decision import Decision, Grant, Obstacle, Option, Rule, Terms
from sollol.types import Ask, Lease, Measured, Task
from sollol.wire.kinds import CHAT, other_kind


def a_call(name: str, **fields: Any) -> Call:
    given: dict[str, Any] = {"model": "m", "model_key": "m", "caller": "me", "kind": CHAT} | fields
    return Call(name, target="/api/chat", body=Body(b"{}"), headers=[], **given)


def an_attempt(node: str = "a", *, is_decided: bool = True, **fields: Any) -> Attempt:
    lease = Lease(1, "r", node, "m", 0.0, predicted_s=2.0)
    decision = Decision("r", "m", 0.0, "fastest", node, Rule.COST, (), 1)
    return Attempt(Grant(lease, decision if is_decided else None), **fields)


@pytest.fixture
def journal() -> Journal:
    return Journal(3, lambda: 1000.0)


def never(_: str) -> bool:
    return False


def ids(journal: Journal, wanted: Wanted | None = None, before: int = 0) -> list[str]:
    return [entry.id for entry in journal.select(wanted or Wanted(), never, before)]


def test_the_oldest_that_ended_are_forgotten_but_none_that_runs(journal: Journal) -> None:
    running = journal.open(a_call("running"), "running", Outcome())
    for number in range(5):
        journal.close(journal.open(a_call(f"r{number}"), "shown", Outcome()), 1.0)
    assert ids(journal) == ["r4", "r3", "r2", "running"]
    assert [entry.id for entry in journal.find("shown")] == ["r4", "r3", "r2"]
    assert [entry.id for entry in journal.find("r3")] == ["r3"]
    assert journal.find("r0") == []
    journal.close(running, 9.0)
    assert ids(journal) == ["r4", "r3", "running"]


@pytest.mark.parametrize(
    ("ask", "model"),
    [(Ask(Task.CHAT, 9, conversation=2**64 - 1), "m"), (Ask(inputs=2**70), "m"), (Ask(), "\ud800")],
)
def test_what_is_kept_of_a_request_is_all_that_was_known_of_it(
    journal: Journal, ask: Ask, model: str
) -> None:
    terms = Terms(wait_s=1.0)
    option = Option("a", terms, True, False, 3, Obstacle.BUSY, "other")
    tried = an_attempt(measured=Measured(output_tokens=7, total_s=3.0), error="x")
    decision = Decision("r", "m", 5.0, "fastest", "a", Rule.COST, (option,), 1)
    tried.grant = Grant(tried.grant.lease, decision)
    outcome = Outcome("a", 200, [tried], 0.5, first_byte_s=0.1, stripped=("num_ctx",))
    entry = journal.open(a_call("r1", ask=ask, model=model), "mine", outcome)
    journal.close(entry, 2.0)
    (kept,) = journal.find("mine")
    assert msgspec.structs.astuple(kept) == msgspec.structs.astuple(entry)


def test_a_journal_of_length_0_has_only_what_is_under_way() -> None:
    journal = Journal(0, lambda: 0.0)
    entry = journal.open(a_call("r1"), "r1", Outcome())
    assert ids(journal) == ["r1"]
    journal.close(entry, 1.0)
    assert ids(journal) == []


def test_entries_are_selected_by_what_is_wanted(journal: Journal) -> None:
    one = Outcome(tries=[an_attempt("a"), an_attempt("b")])
    journal.close(journal.open(a_call("r1"), "r1", one), 1.0)
    journal.close(journal.open(a_call("r2", model_key="n"), "r2", Outcome(error="x")), 1.0)
    journal.open(a_call("r3", caller="you"), "r3", Outcome())
    assert ids(journal, Wanted(model="n")) == ["r2"]
    assert ids(journal, Wanted(node="b")) == ["r1"]
    assert ids(journal, Wanted(caller="you")) == ["r3"]
    assert ids(journal, Wanted(outcome="ok")) == ["r1"]
    assert ids(journal, Wanted(outcome="x")) == ["r2"]
    assert ids(journal, Wanted(outcome="running")) == ["r3"]
    waiting = journal.select(Wanted(outcome="waiting"), lambda name: name == "r3", 0)
    assert [entry.id for entry in waiting] == ["r3"]
    assert ids(journal, before=3) == ["r2", "r1"]


def test_what_callers_write_is_kept_in_part(journal: Journal) -> None:
    long = "x" * 10_000
    kind = other_kind(f"/api/{long}")
    call = a_call("r1", model=long, model_key=long, kind=kind)
    entry = journal.open(call, "r1", Outcome(error_text=long))
    journal.close(entry, 1.0)
    kept = (entry.path, entry.model, entry.model_key, entry.outcome.error_text)
    assert {len(text) for text in kept} == {MAX_TEXT}


def test_the_latest_of_many_attempts_are_kept(journal: Journal) -> None:
    tries = [an_attempt(f"n{number}") for number in range(20)]
    entry = journal.open(a_call("r1"), "r1", Outcome(tries=tries))
    journal.close(entry, 1.0)
    nodes = [attempt.grant.lease.node_id for attempt in entry.outcome.tries]
    assert nodes == [f"n{number}" for number in range(20 - MAX_TRIES, 20)]


def test_a_request_under_way_has_the_id_that_its_caller_knows(journal: Journal) -> None:
    entry = journal.open(a_call("r1"), "mine", Outcome())
    assert journal.shown_id("r1") == "mine"
    journal.close(entry, 1.0)
    assert journal.shown_id("r1") == "r1"


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([], None),
        ([an_attempt()], None),
        ([an_attempt(measured=Measured())], None),
        ([an_attempt(measured=Measured(total_s=0.0))], None),
        ([an_attempt(measured=Measured(total_s=3.0), is_decided=False)], None),
        (
            [an_attempt(error="upstream_cut"), an_attempt(measured=Measured(total_s=3.0))],
            (2.0, 3.0),
        ),
    ],
)
def test_a_prediction_is_compared_where_there_is_one_and_the_answer_was_whole(
    journal: Journal, tries: list[Attempt], expected: tuple[float, float] | None
) -> None:
    entry = journal.open(a_call("r1"), "r1", Outcome(tries=tries))
    assert prediction(entry) == expected
