"""The official clients against the gateway over a real llama.cpp, alone and beside Ollama nodes."""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient
from openai import AsyncOpenAI

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.llamacpp.binaries import BINARY_PACKAGE, has_avx2
from sollol.llamacpp.small_model import MODEL_NAME, MODEL_PACKAGE
from sollol.settings import NodeSettings
from sollol.types import NodeState
from tests.gateways import RunningGateway, running_gateway, wait_for

CAN_RUN = has_avx2() and all(find_spec(name) for name in (BINARY_PACKAGE, MODEL_PACKAGE))
pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not CAN_RUN, reason="needs the extra `llama` and a CPU with AVX2"),
]

SIMULATED = "llama3.2:3b"
QUESTION: Any = [{"role": "user", "content": "Why is the sky blue?"}]
EMBEDDED = {
    "enabled": True,
    "context_length": 512,
    "threads": 1,
    "cache_dir": Path(__file__).parents[2] / ".cache" / "models",
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running(anyio_backend: str) -> AsyncIterator[RunningGateway]:
    """A gateway with its embedded node, to which an Ollama node is added later."""
    async with running_gateway(embedded=EMBEDDED) as gateway:
        await gateway.wait_healthy(1)
        yield gateway


async def test_the_embedded_node_is_a_node_like_any_other(running: RunningGateway) -> None:
    (view,) = running.gateway.registry.views()
    assert (view.id, view.engine, view.state) == ("embedded", "llama_server", NodeState.HEALTHY)


async def test_ollama_client(running: RunningGateway) -> None:
    client = AsyncClient(running.url)
    assert [model.model for model in (await client.list()).models] == [MODEL_NAME]
    assert (await client.show(MODEL_NAME)).capabilities == ["completion", "embedding"]
    assert [model.model for model in (await client.ps()).models] == [MODEL_NAME]
    options = {"num_predict": 8, "temperature": 0, "seed": 1}
    whole = await client.chat(MODEL_NAME, QUESTION, options=options)
    assert whole.done
    assert whole.eval_count
    assert whole.eval_duration
    assert whole.prompt_eval_duration
    parts = [
        part async for part in await client.chat(MODEL_NAME, QUESTION, stream=True, options=options)
    ]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done
    generated = await client.generate(MODEL_NAME, "The sky is", raw=True, options=options)
    assert generated.response
    embedded = await client.embed(MODEL_NAME, ["one", "two"])
    assert [len(vector) for vector in embedded.embeddings] == [640, 640]
    loaded = await client.generate(MODEL_NAME, "")
    assert loaded.done_reason == "load"
    await client._client.aclose()


async def test_openai_client(running: RunningGateway) -> None:
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="unused") as client:
        assert [model.id async for model in client.models.list()] == [MODEL_NAME]
        stream = await client.chat.completions.create(
            model=MODEL_NAME,
            messages=QUESTION,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
        assert chunks[-1].usage is not None
        completed = await client.completions.create(model=MODEL_NAME, prompt="Once", max_tokens=4)
        assert completed.choices[0].text
        embedded = await client.embeddings.create(
            model=MODEL_NAME, input="one", encoding_format="float"
        )
        assert len(embedded.data[0].embedding) == 640


async def test_both_kinds_of_nodes_at_once(running: RunningGateway) -> None:
    client = AsyncClient(running.url)
    async with SimNode(SimConfig(models=(SimModel(SIMULATED),))) as node:
        registry = running.gateway.registry
        added = registry.add(NodeSettings.model_validate(node.url))
        await running.wait_healthy(2)
        listed = {model.model for model in (await client.list()).models}
        assert listed == {MODEL_NAME, SIMULATED}
        for name in (MODEL_NAME, SIMULATED):
            answer = await client.chat(name, QUESTION, options={"num_predict": 4})
            assert answer.model == name
            assert answer.done
        assert {r.model for r in node.requests if r.path == "/api/chat"} == {SIMULATED}
        await wait_for(lambda: running.in_flight == 0)
        await registry.remove(added.view.id)
    await client._client.aclose()
