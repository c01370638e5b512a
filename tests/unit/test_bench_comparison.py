"""Policies compared, and what is written about it."""

import json
import re
from pathlib import Path

import pytest

from sollol.bench.comparison import Comparison, Plan, carried_rate, compare
from sollol.bench.fleets import HETEROGENEOUS, HOMOGENEOUS
from sollol.bench.outcome import Record, Replay
from sollol.bench.report.figures import bars, cumulative, shares
from sollol.bench.report.files import make_folder, write_report
from sollol.bench.report.markdown import markdown
from sollol.bench.report.page import page
from sollol.bench.workloads import Kind, Source
from sollol.types import Task

SYNTHETIC = Source(Kind.SYNTHETIC)
POLICIES = ("fastest", "round_robin")


def plan(*policies: str, time_scale: float | None = None, rounds: int = 2) -> Plan:
    return Plan(
        policies=policies or POLICIES,
        fleet=HETEROGENEOUS,
        source=SYNTHETIC,
        requests=60,
        rounds=rounds,
        seed=5,
        rate_per_s=0.5,
        time_scale=time_scale,
    )


def quiet(name: str, ended: int, *, count: int) -> None:
    """Show nothing."""


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(plan(), "sollol bench --virtual", quiet)


def test_every_policy_runs_in_every_round_in_turn() -> None:
    told: list[tuple[str, int, int]] = []
    result = compare(plan(), "", lambda name, ended, *, count: told.append((name, ended, count)))
    assert [name for name, ended, _ in told if ended] == [
        "round 1 of 2, fastest",
        "round 1 of 2, round_robin",
        "round 2 of 2, round_robin",
        "round 2 of 2, fastest",
    ]
    assert {count for *_, count in told} == {60}
    assert {name: len(runs) for name, runs in result.replays.items()} == dict.fromkeys(POLICIES, 2)


def test_all_policies_get_the_same_requests(comparison: Comparison) -> None:
    for one, other in zip(*comparison.replays.values(), strict=True):
        assert [r.arrived_at for r in one.records] == [r.arrived_at for r in other.records]
    assert comparison.lateness_s == []


@pytest.mark.parametrize(
    ("policies", "words"), [(("fastests",), "no such policy: fastests"), (("random",) * 2, "twice")]
)
def test_a_plan_names_known_policies_once(policies: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(*policies)


def test_a_rate_that_is_carried_is_found() -> None:
    assert 0.1 < carried_rate("random", HOMOGENEOUS, SYNTHETIC, 100, 1) < 20


def test_the_report_is_written(comparison: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    make_folder(folder)
    paths = write_report(comparison, folder)
    assert [path.name for path in paths] == ["report.md", "report.html", "report.json"]
    figures = json.loads(paths[2].read_text())
    assert figures["facts"]["Command"] == "sollol bench --virtual"
    assert figures["policies"]["fastest"]["mean_s"] > 0
    assert len(figures["rounds"]["round_robin"]) == 2


def test_the_markdown_has_a_line_for_each_policy_in_each_table(comparison: Comparison) -> None:
    text = markdown(comparison)
    for heading in ("Latency", "Against round_robin", "By priority and task", "By node"):
        table = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert "| fastest |" in table
    assert "0.500 requests a second" in text
    assert "seeds 5 to 6" in text
    assert "virtual: one process" in text


def test_the_page_needs_nothing_else(comparison: Comparison) -> None:
    text = page(comparison).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    assert text.count("<svg") == 5
    assert "prefers-color-scheme:dark" in text
    assert "polyline" in text


def test_the_page_escapes_what_it_shows(comparison: Comparison) -> None:
    other = Comparison(comparison.plan, comparison.replays, command="--out '<b>'")
    assert "<b>" not in page(other)
    assert "&lt;b&gt;" in page(other)


def test_a_run_over_http_tells_how_late_it_was(comparison: Comparison) -> None:
    runs = {
        name: [Replay(r.records, r.loads, r.reloads, r.evictions, r.ended_at, {}, [0.001, 0.02])]
        for name, (r, _) in comparison.replays.items()
    }
    real = Comparison(plan(time_scale=0.1, rounds=1), runs, foreign_ratio=0.25)
    text = markdown(real)
    assert "p99 20.0 ms = 0.20 s; at most 20.0 ms = 0.20 s" in text
    assert "25% of all CPU time" in text
    assert "seeds 5 |" in text
    assert "of all CPU time" not in markdown(Comparison(real.plan, runs))


def test_a_trace_is_named_without_its_folder(comparison: Comparison, tmp_path: Path) -> None:
    source = Source(Kind.AZURE, tmp_path / "trace.csv", 60.0)
    traced = Plan(POLICIES, HETEROGENEOUS, source, 60, 2, 5, 0.5, None)
    text = markdown(Comparison(traced, comparison.replays))
    assert "trace.csv from second 60 on" in text
    assert str(tmp_path) not in text


def test_a_policy_that_served_nothing_is_shown_too() -> None:
    record = Record(0.0, "m", 5, Task.CHAT, outcome="queue_timeout")
    replay = Replay([record], loads=0, reloads=0, evictions=0, ended_at=1.0)
    failed = Comparison(
        plan("round_robin", "random"), {n: [replay] for n in ("round_robin", "random")}
    )
    assert "0.0%" in markdown(failed)
    assert "| random | - |" in markdown(failed)
    assert "<svg" in page(failed)


def test_a_priority_that_one_policy_did_not_serve_is_left_out(comparison: Comparison) -> None:
    (one, _), (other, _) = comparison.replays.values()
    urgent = [record for record in other.records if record.priority == 8]
    part = Replay(urgent, other.loads, 0, 0, other.ended_at)
    partly = Comparison(comparison.plan, {"fastest": [one], "round_robin": [part]})
    text = markdown(partly)
    assert "| policy | 1 generate | 5 chat | 5 embed | 5 generate | 8 chat |" in text
    assert "| round_robin | - | - | - | - |" in text
    shown = page(partly).partition("Priority 1, generate")[2].partition("Priority 5, chat")[0]
    assert "fastest" in shown
    assert "round_robin" not in shown


def test_plots_of_nothing_are_empty() -> None:
    for plot in (bars({}, "s"), shares({}), cumulative({}, "s"), cumulative({"a": []}, "s")):
        assert plot.startswith("<svg")


def test_a_plot_shows_all_values() -> None:
    assert ">12 loads<" in bars({"": {"one": 12.0, "two": 3.0}}, "loads", digits=0)
    assert ">1.50 s<" in bars({"group": {"one": 1.5}}, "s")
    assert "a: 3 on x" in shares({"a": {"x": 3.0, "y": 1.0}, "b": {"y": 1.0}})
    assert cumulative({"a": [0.1, 1.0, 10.0], "b": [0.0, 2.0]}, "s").count("<polyline") == 2
