"""What random schedules have found, each as the smallest schedule that shows it."""

from collections.abc import Iterator

import pytest
import structlog

from tests.deterministic.client import RequestPlan
from tests.deterministic.faults import Fault, Window
from tests.deterministic.node import NodePlan
from tests.deterministic.runs import be_quiet
from tests.deterministic.schedule import MODELS, Schedule
from tests.deterministic.world import World


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)


def test_who_failed_on_a_node_and_waits_for_it_goes_to_another_that_comes_up() -> None:
    nodes = (NodePlan("n0", MODELS, slots=2), NodePlan("n1", MODELS))
    windows = (
        Window("n1", Fault.RESTART, 1, 250),
        Window("n0", Fault.RESET, 40, 41),
    )
    requests = (
        RequestPlan("r0", 30, "m0:latest", 400),
        RequestPlan("r1", 40, "m0:latest", 3),
        RequestPlan("r2", 42, "m0:latest", 400),
    )
    world = World(Schedule(0, "fastest", nodes, requests, windows))
    world.run()
    assert world.clients["r1"].told.headers["x-sollol-node"] == "n1"


@pytest.mark.parametrize("seed", range(4))  # one half of them begins with the one node
def test_an_error_in_place_of_a_stream_does_not_make_the_next_stream_whole(seed: int) -> None:
    nodes = tuple(NodePlan(name, MODELS) for name in ("n0", "n1"))
    windows = (
        Window("n0", Fault.ERROR_FIRST, 1, 200),
        Window("n1", Fault.SHORT, 1, 200, after=2),
    )
    requests = (RequestPlan("r0", 30, "m0:latest", 5),)
    world = World(Schedule(seed, "fastest", nodes, requests, windows))
    world.run()
    told = world.clients["r0"].told
    assert "done" not in told.records[-1] and told.error  # noqa: PT018 - what is shown is a record
