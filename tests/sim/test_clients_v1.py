"""The official clients on the newer ``/v1`` routes: over a node directly, and over a gateway."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import anthropic
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.gateways import running_gateway
from tests.sim.v1_dialogues import (
    DIALOGUES,
    QUESTION,
    TALKER,
    anthropic_client,
    openai_client,
)

pytestmark = pytest.mark.sim

ABLE = ("completion", "tools", "vision", "thinking", "audio")
CONFIG = SimConfig(models=(SimModel(TALKER, capabilities=ABLE),), slots=4)


@pytest.fixture(params=[0, 1, 2], ids=["a node", "a gateway, one node", "a gateway, two nodes"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        count = max(1, request.param)
        nodes = [await stack.enter_async_context(SimNode(CONFIG)) for _ in range(count)]
        if not request.param:
            yield nodes[0].url
            return
        urls = [node.url for node in nodes]
        yield (await stack.enter_async_context(running_gateway(*urls))).url


@pytest.mark.parametrize("dialogue", DIALOGUES)
async def test_dialogue(url: str, dialogue: Callable[[str], Awaitable[None]]) -> None:
    await dialogue(url)


@pytest.mark.parametrize("kind", ["cut_after_n_records", "error_record_after_n"])
async def test_a_broken_stream_is_an_error_to_the_clients(kind: str) -> None:
    async with SimNode(CONFIG) as node, running_gateway(node.url) as running:
        node.set_fault(Fault(kind, path="/v1/*", records=3))  # type: ignore[arg-type]
        async with anthropic_client(running.url) as client:
            with pytest.raises(anthropic.APIStatusError):
                async with client.messages.stream(
                    model=TALKER, max_tokens=64, messages=QUESTION
                ) as stream:
                    await stream.get_final_message()
        async with openai_client(running.url) as openai:
            stream_ = await openai.responses.create(model=TALKER, input=QUESTION, stream=True)
            events = [event async for event in stream_]
        assert events[-1].type == "error"
        assert "node" in events[-1].message


async def test_a_node_too_old_is_left_out() -> None:
    old = SimConfig(models=CONFIG.models, version="0.12.0")
    async with SimNode(old) as one, SimNode(CONFIG) as two:
        async with running_gateway(one.url, two.url) as running:
            for dialogue in DIALOGUES:
                await dialogue(running.url)
        assert [seen.path for seen in one.requests if seen.path.startswith("/v1/")] == []
        assert {seen.path for seen in two.requests} >= {"/v1/messages", "/v1/responses"}
