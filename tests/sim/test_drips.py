"""Nodes that never fall silent, and never complete anything either."""

import asyncio

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.errors import UpstreamTimeout
from sollol.upstream.drip import Drip
from tests.fleets import a_fleet

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
NODE = SimConfig(models=(SimModel(MODEL),))
LIMITS = {"first_byte_timeout_s": 0.3, "stall_timeout_s": 0.3}
DRIP_S = 0.05


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_node_that_drips_is_given_up(path: str, *, stream: bool) -> None:
    async with a_fleet(NODE, NODE, upstream=LIMITS, scheduling={"policy": "round_robin"}) as fleet:
        fleet.nodes[0].set_fault(Fault("slow_drip", path=path, interval_s=DRIP_S))
        message = {"role": "user", "content": "hi"}
        body = {"model": MODEL, "messages": [message], "stream": stream, "max_tokens": 4}
        body["options"] = {"num_predict": 4}
        answers = [await fleet.post(path, body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert "2" in [answer.headers["x-sollol-attempts"] for answer in answers]


async def test_each_kib_of_what_is_to_be_whole_is_worth_a_second() -> None:
    drip = Drip("node:1", limit_s=-1.0)
    drip.came(2048)
    with pytest.raises(UpstreamTimeout, match="node:1 completed nothing of its answer"):
        drip.came()


async def test_what_is_complete_ends_the_wait() -> None:
    drip = Drip("node:1", limit_s=0.02)
    drip.came()
    await asyncio.sleep(0.03)
    drip.completed()
    drip.came()
