"""A node whose cable is pulled: no FIN, no RST, no refusal; it is merely silent."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, guess_model
from sollol.bench.sim.node import SimNode
from sollol.types import NodeState
from tests.faults.namespace import far_node
from tests.gateways import running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
PACED = ("--models", MODEL, "--slots", "8", "--chunk-interval-s", "0.05")
NOTICED_S = 10.0
NEVER_S = 3600.0
BY_SILENCE = {
    "upstream": {"connect_timeout_s": 0.5, "first_byte_timeout_s": 2, "stall_timeout_s": 1},
    "probe": {"interval_s": NEVER_S},
}
BY_PROBES = {
    "upstream": {
        "connect_timeout_s": 0.5,
        "first_byte_timeout_s": NEVER_S,
        "stall_timeout_s": NEVER_S,
    },
    "probe": {"interval_s": 0.2, "timeout_s": 0.3},
}


def asked(*, stream: bool) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "go", "stream": stream, "options": {"num_predict": 1000}}


@pytest.mark.parametrize("settings", [BY_SILENCE, BY_PROBES], ids=["silence", "probes"])
async def test_a_node_that_vanishes_is_noticed(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = SimConfig(models=(guess_model(MODEL),), slots=8)
    async with far_node(tmp_path, *PACED) as far, SimNode(config) as near:
        async with httpx.AsyncClient(timeout=NOTICED_S) as client:
            await client.post(f"{far.url}/api/generate", json={"model": MODEL})
            listed = [{"url": url, "slots": 8} for url in (far.url, near.url)]
            async with running_gateway(*listed, **settings) as running:
                streams = [ask(client, running.url, stream=True) for _ in range(3)]
                wholes = [ask(client, running.url, stream=False) for _ in range(3)]
                under_way = [asyncio.ensure_future(each) for each in (*streams, *wholes)]
                await wait_for(lambda: running.in_flight >= 3)
                await asyncio.sleep(0.2)  # the streams have begun
                far.pull_cable()
                answers = await asyncio.gather(*under_way)
                later = await ask(client, running.url, stream=False)
                far_view = running.gateway.registry.find(far.url.removeprefix("http://"))
                assert far_view is not None
                if settings is BY_PROBES:
                    await wait_for(lambda: far_view.view.state is not NodeState.HEALTHY)
    cut = [answer for answer in answers[:3] if answer.headers["x-sollol-node"] in far.url]
    assert cut  # the rest was sent to the other node at once
    for answer in cut:
        *before, last = records(answer)
        assert before
        assert list(last) == ["error"]
    for answer in (*answers[3:], later):
        (record,) = records(answer)
        assert (record["done"], record["eval_count"]) == (True, 1000)


async def ask(client: httpx.AsyncClient, url: str, *, stream: bool) -> httpx.Response:
    return await client.post(f"{url}/api/generate", json=asked(stream=stream))


def records(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]
