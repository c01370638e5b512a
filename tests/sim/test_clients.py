"""The official Python clients, unmodified, against the gateway over different nodes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, Client, ResponseError
from openai import AsyncOpenAI, NotFoundError

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from tests.gateways import RunningGateway, running_gateway

pytestmark = pytest.mark.sim

CHAT = SimModel("llama3.2:3b")
EMBED = SimModel("all-minilm", capabilities=("embedding",), embedding_length=16)
QUESTION: Any = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[RunningGateway]:
    config = SimConfig(models=(CHAT, EMBED), slots=4)
    async with SimNode(config) as one, SimNode(config) as two:
        urls = [one.url, two.url][: request.param]
        async with running_gateway(*urls) as gateway:
            yield gateway


@pytest.fixture
async def ollama(running: RunningGateway) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(running.url)
    yield client
    await client._client.aclose()


@pytest.fixture
async def openai(running: RunningGateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="unused") as client:
        yield client


async def test_ollama_lists_shows_and_tells_what_runs(ollama: AsyncClient) -> None:
    listed = await ollama.list()
    assert sorted(model.model or "" for model in listed.models) == ["all-minilm:latest", CHAT.name]
    shown = await ollama.show(CHAT.name)
    assert shown.details is not None
    assert shown.details.family == CHAT.family
    await ollama.generate(CHAT.name, "")
    # The gateway learns what is in a node's memory when it next looks.
    while not (running := (await ollama.ps()).models):
        pass
    assert [model.model for model in running] == [CHAT.name]


async def test_ollama_chats(ollama: AsyncClient) -> None:
    whole = await ollama.chat(CHAT.name, QUESTION, options={"num_predict": 8})
    assert whole.done
    assert whole.eval_count == 8
    pieces = [
        part
        async for part in await ollama.chat(
            CHAT.name, QUESTION, stream=True, options={"num_predict": 8}
        )
    ]
    assert "".join(part.message.content or "" for part in pieces) == whole.message.content
    assert pieces[-1].done_reason == "length"


async def test_ollama_generates_and_embeds(ollama: AsyncClient) -> None:
    whole = await ollama.generate(CHAT.name, "Say something", options={"num_predict": 5})
    parts = [
        part.response
        async for part in await ollama.generate(
            CHAT.name, "Say something", stream=True, options={"num_predict": 5}
        )
    ]
    assert "".join(part or "" for part in parts) == whole.response
    embedded = await ollama.embed("all-minilm", ["one", "two"])
    assert [len(vector) for vector in embedded.embeddings] == [16, 16]


async def test_ollama_is_told_of_an_unknown_model(ollama: AsyncClient) -> None:
    with pytest.raises(ResponseError, match="model 'nope' not found") as raised:
        await ollama.chat("nope", QUESTION)
    assert raised.value.status_code == 404


async def test_openai_lists_chats_completes_and_embeds(openai: AsyncOpenAI) -> None:
    assert CHAT.name in [model.id async for model in openai.models.list()]
    assert (await openai.models.retrieve(CHAT.name)).id == CHAT.name
    whole = await openai.chat.completions.create(
        model=CHAT.name,
        messages=QUESTION,
        max_tokens=8,
    )
    stream = await openai.chat.completions.create(
        model=CHAT.name,
        messages=QUESTION,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    completed = await openai.completions.create(model=CHAT.name, prompt="Once", max_tokens=4)
    assert completed.choices[0].text
    embedded = await openai.embeddings.create(
        model="all-minilm", input=["one", "two"], encoding_format="float"
    )
    assert [len(item.embedding) for item in embedded.data] == [16, 16]


async def test_openai_is_told_of_an_unknown_model(openai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError, match="model 'nope' not found"):
        await openai.chat.completions.create(
            model="nope",
            messages=QUESTION,
        )


async def test_ollama_changes_models_over_two_nodes(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + b"weights" * 200_000)

    def change(url: str) -> None:
        with Client(url) as client:
            steps = list(client.pull("qwen3:8b", stream=True))
            assert steps[0].status == "pulling manifest"
            assert steps[-1].status == "success"
            layers = {step.digest: step for step in steps if step.digest}
            assert len(layers) == 2
            assert all(step.completed == step.total for step in layers.values())
            assert client.pull("qwen3:8b").status == "success"
            digest = client.create_blob(file)
            assert client.create("mine", files={"model.gguf": digest}).status == "success"
            made = list(client.create("mario", from_="qwen3:8b", system="Mario", stream=True))
            assert made[-1].status == "success"
            assert client.copy("mine", "yours").status == "success"
            assert client.push("yours").status == "success"
            assert client.delete("mine").status == "success"
            with pytest.raises(ResponseError, match="model 'mine' not found") as raised:
                client.delete("mine")
            assert raised.value.status_code == 404
            names = {model.model for model in client.list().models}
            assert names == {"qwen3:8b", "yours:latest", "mario:latest"}

    async with SimNode(SimConfig(time_scale=0.001)) as one, SimNode(SimConfig()) as two:
        async with running_gateway(one.url, two.url, probe={"interval_s": 60}) as running:
            await asyncio.to_thread(change, running.url)
        for node in (one, two):
            assert node.state.models.find("yours")
            assert node.state.blob_bytes_received == file.stat().st_size
