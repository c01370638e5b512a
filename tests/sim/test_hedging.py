"""A short request for embeddings that one node is late with is sent to a second one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.gateway.hedging import AnswerTooLong, Hedging, Held
from sollol.gateway.lateness import BURST, LEAST, SHARE, WINDOW
from tests.fleets import Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

MODEL = SimModel("llama3.2:3b", size_gib=1.0, embedding_length=4)
NODE = SimConfig(models=(MODEL,), slots=4)
EMBED = "/api/embed"
HANGS = Fault("hang_before_head", path=EMBED)
DRIPS = Fault("slow_drip", path=EMBED, interval_s=0.0005)
BUSY = Fault("status", path=EMBED, status=503, times=1)
CRASHES = Fault("close_before_head", path=EMBED, times=1)


async def embed(fleet: Fleet, text: str = "hello") -> httpx.Response:
    return await fleet.client.post(EMBED, json={"model": MODEL.name, "input": text})


def hedging_of(fleet: Fleet) -> Hedging:
    hedging = fleet.running.gateway.hedging
    assert hedging is not None
    return hedging


def learn(fleet: Fleet, late_s: float) -> None:
    """Let it be known that answers of the model are late after so many seconds."""
    hedging = hedging_of(fleet)
    for _ in range(WINDOW):
        hedging.lateness.note(MODEL.name, late_s, hedging.clock())


@asynccontextmanager
async def nodes(count: int, late_s: float, **failover: Any) -> AsyncIterator[Fleet]:
    """Run nodes that all have the model in memory; the next request goes to the first of them."""
    groups: Any = {"failover": {"hedge": True} | failover}
    groups["scheduling"] = {"policy": "round_robin"}
    async with a_fleet(*[NODE] * count, **groups) as fleet:
        for number in range(2 * count):
            answer = await embed(fleet)
            assert answer.headers["x-sollol-node"] == "abc"[number % count]
        learn(fleet, late_s)
        yield fleet


async def attempts(fleet: Fleet) -> list[tuple[str, str]]:
    """Node and error code of each attempt of the latest request."""
    told = (await fleet.client.get("/sollol/v1/decisions?limit=1")).json()["decisions"][0]
    return [(tried["node"], tried["error"] or "") for tried in told["attempts"]]


async def count(fleet: Fleet, outcome: str) -> float:
    text = (await fleet.client.get("/metrics")).text
    label = f'sollol_hedges_total{{outcome="{outcome}"}}'
    return sum(float(x.split()[1]) for x in text.splitlines() if x.startswith(label))


def latest(fleet: Fleet, node: int) -> Any:
    return [seen for seen in fleet.nodes[node].requests if seen.path == EMBED][-1]


async def test_a_second_node_answers_for_one_that_is_late() -> None:
    async with nodes(2, late_s=0.05) as fleet:
        fleet.nodes[0].set_fault(HANGS)
        answer = await embed(fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == "b"
        assert answer.headers["x-sollol-attempts"] == "2"
        assert answer.json()["embeddings"]
        await wait_for(lambda: latest(fleet, 0).outcome != "running")
        assert await attempts(fleet) == [("a", "hedged"), ("b", "")]
        assert await count(fleet, "won") == 1
        node = fleet.running.gateway.registry.find("a")
        assert node is not None
        assert not node.health.is_troubled


async def test_what_is_late_is_learnt_from_quick_answers() -> None:
    async with nodes(2, late_s=0.0) as fleet:
        hedging = hedging_of(fleet)
        hedging.lateness.__init__()  # type: ignore[misc]
        for _ in range(LEAST):
            assert hedging.lateness.late_s(MODEL.name, hedging.clock()) is None
            await embed(fleet)
        late_s = hedging.lateness.late_s(MODEL.name, hedging.clock())
        assert late_s is not None
        assert late_s > 0.0


async def test_the_first_node_may_still_be_the_quicker_one() -> None:
    async with nodes(2, late_s=0.01) as fleet:
        fleet.nodes[0].set_fault(DRIPS)
        fleet.nodes[1].set_fault(HANGS)
        answer = await embed(fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == "a"
        await wait_for(lambda: latest(fleet, 1).outcome != "running")
        assert await attempts(fleet) == [("b", "hedged"), ("a", "")]
        assert await count(fleet, "lost") == 1


async def test_a_copy_that_fails_leaves_the_first_node_to_answer() -> None:
    async with nodes(2, late_s=0.01) as fleet:
        fleet.nodes[0].set_fault(DRIPS)
        fleet.nodes[1].set_fault(Fault("status", path=EMBED, status=500, times=1))
        answer = await embed(fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == "a"
        assert await attempts(fleet) == [("b", "upstream_status"), ("a", "")]
        assert await count(fleet, "failed") == 1
        node = fleet.running.gateway.registry.find("b")
        assert node is not None
        assert node.health.is_troubled


async def test_the_copy_goes_on_when_the_first_node_fails() -> None:
    async with nodes(2, late_s=0.0) as fleet:
        fleet.nodes[0].set_fault(CRASHES)
        fleet.nodes[1].set_fault(DRIPS)
        answer = await embed(fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == "b"
        assert await attempts(fleet) == [("a", "upstream_cut"), ("b", "")]
        assert await count(fleet, "won") == 1


async def test_when_both_fail_a_third_node_is_tried() -> None:
    async with nodes(3, late_s=0.0) as fleet:
        for node in fleet.nodes[:2]:
            node.set_fault(BUSY)
        answer = await embed(fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == "c"
        assert len(await attempts(fleet)) == 3
        assert await count(fleet, "failed") == 1


async def test_what_may_have_killed_two_nodes_is_given_to_no_third() -> None:
    async with nodes(3, late_s=0.0) as fleet:
        for node in fleet.nodes[:2]:
            node.set_fault(CRASHES)
        answer = await embed(fleet)
        assert answer.status_code == 502
        assert len(await attempts(fleet)) == 2


async def test_a_client_that_leaves_ends_both() -> None:
    async with nodes(2, late_s=0.0) as fleet:
        for node in fleet.nodes:
            node.set_fault(HANGS)
        asking = asyncio.create_task(embed(fleet))
        await wait_for(lambda: fleet.running.in_flight == 2)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await wait_for(lambda: fleet.running.in_flight == 0)
        for number in range(2):
            await wait_for(lambda n=number: latest(fleet, n).outcome != "running")  # type: ignore[misc]
        assert await count(fleet, "cancelled") == 1


async def test_copies_are_few() -> None:
    requests = 100
    async with nodes(2, late_s=0.0) as fleet:
        for _ in range(requests):
            learn(fleet, 0.0)
            assert (await embed(fleet)).status_code == 200
        seen = sum(1 for n in fleet.nodes for r in n.requests if r.path == EMBED)
        copies = sum([await count(fleet, name) for name in ("won", "lost", "failed")])
        assert seen == requests + copies + 4
        assert BURST <= copies <= BURST + SHARE * requests


async def test_only_short_requests_for_embeddings_are_sent_twice() -> None:
    async with nodes(2, late_s=0.0) as fleet:
        assert (await embed(fleet, "long " * 2000)).status_code == 200
        body = {"model": MODEL.name, "prompt": "hi", "stream": False}
        assert (await fleet.post("/api/generate", body)).headers["x-sollol-attempts"] == "1"
        assert hedging_of(fleet).budget._left == BURST


async def test_off_by_default() -> None:
    async with a_fleet(NODE, NODE) as fleet:
        assert fleet.running.gateway.hedging is None
        assert (await embed(fleet)).status_code == 200


async def test_only_whole_answers_are_held() -> None:
    held = Held()
    with pytest.raises(AnswerTooLong):
        held.start(200, [])
