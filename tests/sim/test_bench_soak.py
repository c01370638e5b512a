"""A soak of few requests: a gateway and nodes as processes, with faults and aborts."""

from sollol.bench.endurance.lab import running_lab
from sollol.bench.endurance.soak import FIRST, FLEET, SETTINGS, intro, measure
from sollol.bench.endurance.soak_figures import describe, judge


async def test_few_requests_leave_nothing_behind() -> None:
    with running_lab(FLEET, SETTINGS) as lab:
        figures = await measure(lab, FIRST + 200)
    assert sum(figures.outcomes.values()) == FIRST + 200
    assert figures.outcomes["right"] > 350
    assert figures.after.in_flight == figures.after.waiting == figures.outcomes["hung"] == 0
    assert "a second" in describe(figures)
    assert "400 small" in intro(FIRST + 200)
    assert len(judge(figures)) == 6
