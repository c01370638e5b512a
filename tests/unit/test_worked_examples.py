"""The tables of docs/architecture/routing.md and priority.md, computed."""

import re
from pathlib import Path
from random import Random

import pytest

from sollol.scheduling.cost import Prices
from sollol.scheduling.decision import Grant, Terms
from sollol.scheduling.demand import WINDOW_S, Demand
from sollol.scheduling.limits import SchedulerLimits
from sollol.scheduling.room import MISSED_WITHIN_S
from sollol.scheduling.scheduler import Scheduler
from sollol.scheduling.state import Held, Node, Runner, Shared
from sollol.scheduling.work import Work
from sollol.types import Engine, Lease, Model, NodeState, NodeView, RouteRequest

PAGES = Path("docs/architecture")
GB = 10**9
MODEL, OTHER = "chat", "other"


def table(page: str) -> list[dict[str, str]]:
    """Return the worked example's table, its rows by heading."""
    text = (PAGES / page).read_text(encoding="utf-8").split("## A worked example")[1]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not re.fullmatch(r"[|-]+", line)
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1 : len(rows)]]


class Fleet:
    """The nodes of the example of routing.md."""

    def __init__(self) -> None:
        self.shared = Shared()
        self.now = 1000.0
        self.runners = {
            "gpu1": self._runner("gpu1", prefill_s=0.0002, decode_s=0.010),
            "gpu2": self._runner("gpu2", prefill_s=0.0002, decode_s=0.010),
            "cpu1": self._runner("cpu1", prefill_s=0.010, decode_s=0.080),
        }
        for name in ("gpu1", "cpu1"):
            self.runners[name].load((), 0.0)
        for number, seconds in enumerate((4.0, 9.0)):
            self._run(self.runners["gpu1"], number, seconds)
        self.demand = Demand()
        self._push_out_on_gpu2()

    def _runner(self, name: str, *, prefill_s: float, decode_s: float) -> Runner:
        models = {model: Model(model, model, size_bytes=5 * GB) for model in (MODEL, OTHER)}
        view = NodeView(
            name, f"http://{name}", Engine.OLLAMA, NodeState.HEALTHY, slots=2, models=models
        )
        runner = Runner(Node(view, self.shared), MODEL, 5 * GB)
        runner.names = (MODEL,)
        runner.prefill_s, runner.decode_s, runner.load_s = prefill_s, decode_s, 5.0
        return runner

    def _run(self, runner: Runner, number: int, seconds: float) -> None:
        request = RouteRequest(f"r{number}", MODEL, 0.0, 9999.0)
        lease = Lease(number, request.id, runner.node.id, runner.key, 0.0)
        held = Held(
            lease, request, runner, runner.node, self.now - 1.0, self.now + seconds,
            Terms(), 0, 0, 0, False,
        )  # fmt: skip
        runner.running[number] = held
        runner.node.begin(held, self.now)

    def _push_out_on_gpu2(self) -> None:
        """Load another model there, asked for once a minute, and leave no room beside it."""
        node = self.runners["gpu2"].node
        other = Runner(node, OTHER, 5 * GB)
        other.names = (OTHER,)
        other.load((), 0.0)
        other.load_s = 3.0
        node.capacity.told_bytes = int(7 * GB)
        for minute in range(60):
            self.demand.note(OTHER, (), 100, 50, self.now - 3600.0 + 60.0 * minute)
        rate = self.demand.shape_rate(OTHER, (), self.now)
        assert rate * MISSED_WITHIN_S >= 1.0, "it is missed for certain"
        assert rate == pytest.approx(1 / 60, rel=60 / WINDOW_S)

    def prices(self) -> dict[str, Terms]:
        work = Work(MODEL, 1000, 300, (), 0, key=self.now - 50.0, level=5.0)
        prices = Prices(self.demand, self.shared.copies)
        return {
            name: prices.price(runner, work, self.now).terms
            for name, runner in self.runners.items()
        }


def test_the_table_of_routing_is_what_is_computed() -> None:
    computed = Fleet().prices()
    rows = table("routing.md")
    assert [row["node"] for row in rows] == list(computed)
    for row in rows:
        terms = computed[row["node"]]
        for name, shown in row.items():
            if name == "node":
                continue
            value = terms.total_s if name == "total" else getattr(terms, name)
            assert f"{value:.2f}" == shown, (row["node"], name)


def test_the_table_of_priorities_is_the_order_in_which_they_are_served() -> None:
    rows = table("priority.md")
    sut = Scheduler(SchedulerLimits(10), Random(1))
    view = NodeView(
        "a", "http://a", Engine.OLLAMA, NodeState.HEALTHY, models={"m": Model("m", "m")}
    )
    sut.node_changed(view, 0.0)
    (first,) = sut.submit(RouteRequest("held", "m", 0.0, 9999.0), 0.0)
    assert isinstance(first, Grant)
    lease = first.lease
    for row in rows:
        at = float(row["at"])
        request = RouteRequest(
            row["request"], "m", at, 9999.0, priority=int(row["priority"]), caller=row["request"]
        )
        assert sut.submit(request, at) == []
        assert float(row["key"]) == at - 10 * request.priority
    served = []
    for _ in rows:
        (grant,) = sut.release(lease, 100.0)
        assert isinstance(grant, Grant)
        lease = grant.lease
        served.append(lease.request_id)
    sut.release(lease, 100.0)
    places = ("1st", "2nd", "3rd", "4th")
    assert {name: places[at] for at, name in enumerate(served)} == {
        row["request"]: row["served"] for row in rows
    }
