"""A short request for embeddings that one node is late with is sent to a second one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.gateway.hedging import AnswerTooLong, Hedging, Held
from sollol.gateway.lateness import BURST, SHARE, WINDOW
from sollol.types import NodeState
from sollol.wire.names import model_key
from tests.fleets import NAMES, Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

MODEL = SimModel(
    "llama3.2:3b", size_gib=1.0, embedding_length=4, capabilities=("completion", "embedding")
)
NODE = SimConfig(models=(MODEL,), slots=4)
EMBED = "/api/embed"
HANGS = Fault("hang_before_head", path=EMBED)
DRIPS = Fault("slow_drip", path=EMBED, interval_s=0.0005)
BUSY = Fault("status", path=EMBED, status=503, times=1)
CRASHES = Fault("status", path=EMBED, status=500, times=1)


KEY = model_key(MODEL.name)


@dataclass(frozen=True)
class Turns:
    """A fleet whose nodes get requests in turn; ``names`` begins with the one that is next."""

    fleet: Fleet
    names: str

    def node(self, turn: int) -> SimNode:
        return self.fleet.nodes[NAMES.index(self.names[turn])]

    def is_blamed(self, turn: int) -> bool:
        """Whether a node, or the model there, was ejected: one failure is enough for that."""
        node = self.fleet.running.gateway.registry.find(self.names[turn])
        assert node is not None
        return bool(node.view.limited) or node.view.state is not NodeState.HEALTHY

    @property
    def hedging(self) -> Hedging:
        hedging = self.fleet.running.gateway.hedging
        assert hedging is not None
        return hedging

    def learn(self, late_s: float) -> None:
        """Let it be known that answers of the model are late after so many seconds."""
        for _ in range(WINDOW):
            self.hedging.lateness.note(KEY, late_s, self.hedging.clock())

    async def wait_noted(self) -> None:
        """Wait until all that follows an answer is done, too."""
        await wait_for(lambda: not self.fleet.running.server.server_state.tasks)

    async def attempts(self) -> list[tuple[int, str]]:
        """Turn of the node and error code of each attempt of the latest request."""
        await self.wait_noted()
        told = (await self.fleet.client.get("/sollol/v1/decisions?limit=1")).json()["decisions"][0]
        return [(self.names.index(t["node"]), t["error"] or "") for t in told["attempts"]]

    async def count(self, outcome: str) -> float:
        await self.wait_noted()
        text = (await self.fleet.client.get("/metrics")).text
        label = f'sollol_hedges_total{{outcome="{outcome}"}}'
        return sum(float(x.split()[1]) for x in text.splitlines() if x.startswith(label))

    async def wait_aborted(self, turn: int) -> None:
        """Wait until the latest request to a node has ended, as its client left."""
        seen = [r for r in self.node(turn).requests if r.path == EMBED][-1]
        await wait_for(lambda: seen.outcome != "running")


async def embed(fleet: Fleet, text: str = "hello") -> httpx.Response:
    return await fleet.client.post(EMBED, json={"model": MODEL.name, "input": text})


@asynccontextmanager
async def in_turns(count: int, late_s: float) -> AsyncIterator[Turns]:
    """Run nodes that all have the model in memory, with so much known of how long it takes."""
    failover = {"hedge": True, "eject_after": 1}
    groups: Any = {"failover": failover, "scheduling": {"policy": "round_robin"}}
    async with a_fleet(*[NODE] * count, **groups) as fleet:
        answers = [await embed(fleet) for _ in range(2 * count)]
        names = "".join(answer.headers["x-sollol-node"] for answer in answers)
        assert names[:count] == names[count:]
        turns = Turns(fleet, names[:count])
        turns.learn(late_s)
        yield turns


async def test_a_second_node_answers_for_one_that_is_late() -> None:
    async with in_turns(2, late_s=0.05) as turns:
        turns.node(0).set_fault(HANGS)
        answer = await embed(turns.fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == turns.names[1]
        assert answer.headers["x-sollol-attempts"] == "2"
        assert answer.json()["embeddings"]
        await turns.wait_aborted(0)
        assert await turns.attempts() == [(0, "hedged"), (1, "")]
        assert await turns.count("won") == 1
        assert not turns.is_blamed(0)


async def test_what_is_late_is_learnt_from_quick_answers() -> None:
    async with in_turns(2, late_s=10.0) as turns:
        hedging = turns.hedging
        for _ in range(WINDOW):
            await embed(turns.fleet)
        late_s = hedging.lateness.late_s(KEY, hedging.clock())
        assert late_s is not None
        assert late_s > 0.0
        turns.node(0).set_fault(HANGS)
        for _ in range(2):
            assert (await embed(turns.fleet)).status_code == 200
        assert await turns.count("won") >= 1


async def test_the_first_node_may_still_be_the_quicker_one() -> None:
    async with in_turns(2, late_s=0.01) as turns:
        turns.node(0).set_fault(DRIPS)
        turns.node(1).set_fault(HANGS)
        answer = await embed(turns.fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == turns.names[0]
        await turns.wait_aborted(1)
        assert await turns.attempts() == [(1, "hedged"), (0, "")]
        assert await turns.count("lost") == 1


async def test_a_copy_that_fails_leaves_the_first_node_to_answer() -> None:
    async with in_turns(2, late_s=0.01) as turns:
        turns.node(0).set_fault(DRIPS)
        turns.node(1).set_fault(CRASHES)
        answer = await embed(turns.fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == turns.names[0]
        assert await turns.attempts() == [(1, "upstream_status"), (0, "")]
        assert await turns.count("failed") == 1
        assert turns.is_blamed(1)


async def test_the_copy_goes_on_when_the_first_node_fails() -> None:
    async with in_turns(2, late_s=0.0) as turns:
        turns.node(0).set_fault(CRASHES)
        turns.node(1).set_fault(DRIPS)
        answer = await embed(turns.fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == turns.names[1]
        assert await turns.attempts() == [(0, "upstream_status"), (1, "")]
        assert await turns.count("won") == 1
        assert turns.is_blamed(0)


async def test_when_both_fail_a_third_node_is_tried() -> None:
    async with in_turns(3, late_s=0.0) as turns:
        for node in (turns.node(0), turns.node(1)):
            node.set_fault(BUSY)
        answer = await embed(turns.fleet)
        assert answer.status_code == 200
        assert answer.headers["x-sollol-node"] == turns.names[2]
        assert len(await turns.attempts()) == 3
        assert await turns.count("failed") == 1


async def test_what_may_have_killed_two_nodes_is_given_to_no_third() -> None:
    async with in_turns(3, late_s=0.0) as turns:
        for node in (turns.node(0), turns.node(1)):
            node.set_fault(CRASHES)
        answer = await embed(turns.fleet)
        assert answer.status_code == 500
        assert len(await turns.attempts()) == 2


async def test_a_client_that_leaves_ends_both() -> None:
    async with in_turns(2, late_s=0.0) as turns:
        for node in turns.fleet.nodes:
            node.set_fault(HANGS)
        asking = asyncio.create_task(embed(turns.fleet))
        await wait_for(lambda: turns.fleet.running.in_flight == 2)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await wait_for(lambda: turns.fleet.running.in_flight == 0)
        await turns.wait_aborted(0)
        await turns.wait_aborted(1)
        assert await turns.count("cancelled") == 1


async def test_copies_are_few() -> None:
    requests = 100
    async with in_turns(2, late_s=0.0) as turns:
        for _ in range(requests):
            turns.learn(0.0)
            assert (await embed(turns.fleet)).status_code == 200
        seen = sum(1 for n in turns.fleet.nodes for r in n.requests if r.path == EMBED)
        copies = sum([await turns.count(name) for name in ("won", "lost", "failed")])
        assert requests + 4 <= seen <= requests + copies + 4
        assert BURST <= copies <= BURST + SHARE * requests


async def test_without_a_second_node_the_first_is_waited_for() -> None:
    async with in_turns(1, late_s=0.0) as turns:
        assert (await embed(turns.fleet)).headers["x-sollol-attempts"] == "1"


async def test_a_failure_before_an_answer_is_late_is_tried_again() -> None:
    async with in_turns(2, late_s=10.0) as turns:
        turns.node(0).set_fault(CRASHES)
        assert (await embed(turns.fleet)).status_code == 200
        assert await turns.attempts() == [(0, "upstream_status"), (1, "")]


async def test_only_short_requests_for_embeddings_are_sent_twice() -> None:
    async with in_turns(2, late_s=0.0) as turns:
        assert (await embed(turns.fleet, "long " * 2000)).status_code == 200
        body = {"model": MODEL.name, "prompt": "hi", "stream": False}
        assert (await turns.fleet.post("/api/generate", body)).headers["x-sollol-attempts"] == "1"
        assert turns.hedging.budget._left == BURST


async def test_off_by_default() -> None:
    async with a_fleet(NODE, NODE) as fleet:
        assert fleet.running.gateway.hedging is None
        assert (await embed(fleet)).status_code == 200


async def test_nothing_is_left_behind_whenever_a_client_leaves() -> None:
    async with in_turns(2, late_s=0.0) as turns:
        for ticks in range(120):
            turns.learn(0.0)
            for _ in range(int(1.0 / SHARE) + 1):
                turns.hedging.budget.count()
            asking = asyncio.create_task(embed(turns.fleet))
            for _ in range(ticks // 2):
                await asyncio.sleep(0)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert (await asking).status_code == 200
            await turns.wait_noted()
            assert turns.fleet.running.in_flight == 0


async def test_only_whole_answers_are_held() -> None:
    held = Held()
    with pytest.raises(AnswerTooLong):
        held.start(200, [])
    for never in (held.write, held.end):
        with pytest.raises(AssertionError):
            never(b"")
    with pytest.raises(AssertionError):
        await held.wait_room()
