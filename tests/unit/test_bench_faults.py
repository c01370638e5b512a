"""Scripts of outages, and what is told of a comparison in which nodes failed."""

import itertools
from dataclasses import replace

import pytest

from sollol.bench.comparison import Comparison, Plan
from sollol.bench.faults.script import KINDS, make_script
from sollol.bench.fleets import HOMOGENEOUS
from sollol.bench.live.processes import gateway_settings
from sollol.bench.outcome import Record, Replay
from sollol.bench.report.markdown import markdown
from sollol.bench.report.outages import answered_lines
from sollol.bench.report.page import page
from sollol.bench.workloads import Kind, Source
from sollol.types import Task

PLAN = Plan(
    policies=("fastest", "round_robin:no_retries"),
    fleet=HOMOGENEOUS,
    source=Source(Kind.SYNTHETIC),
    requests=4,
    rounds=1,
    seed=1,
    rate_per_s=1.0,
    time_scale=0.05,
    with_faults=True,
)


def replay(*outcomes: str) -> Replay:
    records = [Record(100.0 * place, "m", 5, Task.CHAT, o) for place, o in enumerate(outcomes)]
    return Replay(records, loads=0, reloads=0, evictions=0, ended_at=400.0)


COMPARISON = Comparison(
    PLAN,
    {
        "fastest": [replay("served", "served", "served", "cut")],
        "round_robin:no_retries": [replay("served", "served", "http_502", "cut")],
    },
)


def test_one_node_fails_at_a_time_and_every_kind_comes_up() -> None:
    script = make_script(["a", "b"], 2000.0, seed=1)
    assert script == make_script(["a", "b"], 2000.0, seed=1) != make_script(["a", "b"], 2000.0, 2)
    assert {outage.kind for outage in script} == set(KINDS)
    assert {outage.node for outage in script} == {"a", "b"}
    for before, after in itertools.pairwise(script):
        assert before.begins_s < before.ends_s < after.begins_s < 2000.0


def test_what_is_answered_is_told_with_the_difference() -> None:
    head, with_retries, without = answered_lines(COMPARISON)
    assert head.split() == [
        "policy",
        "requests",
        "answered",
        "against",
        "round_robin:no_retries",
        "cut",
        "http_502",
    ]
    assert with_retries.split() == ["fastest", "4", "75.00%", "+25.00", "points", "1", "0"]
    assert without.split() == ["round_robin:no_retries", "4", "50.00%", "-", "1", "1"]
    for text in (markdown(COMPARISON), page(COMPARISON)):
        assert "Answered while nodes failed" in text
        assert PLAN.script(1, 300.0)[0].kind in text


def test_without_a_baseline_there_is_no_difference() -> None:
    alone = Comparison(PLAN, {"fastest": COMPARISON.replays["fastest"]})
    assert "against" not in answered_lines(alone)[0]


def test_without_faults_nothing_is_told_of_them() -> None:
    text = markdown(Comparison(replace(PLAN, with_faults=False), COMPARISON.replays))
    assert "nodes failed" not in text


@pytest.mark.parametrize("faults", [True, False])
def test_a_virtual_clock_has_no_faults_and_no_retries(faults: bool) -> None:
    policies = ("fastest",) if faults else ("fastest:no_retries",)
    with pytest.raises(ValueError, match="not virtual"):
        replace(PLAN, policies=policies, time_scale=None, with_faults=faults)


def test_a_gateway_without_retries_tries_one_node() -> None:
    settings = gateway_settings("round_robin:no_retries", 1, 0.1)
    assert "scheduling.policy=round_robin" in settings
    assert "upstream.max_attempts=1" in settings
    assert "upstream.max_attempts=1" not in gateway_settings("round_robin", 1, 0.1)
