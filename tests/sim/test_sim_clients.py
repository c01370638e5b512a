"""The official clients against a simulated node."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator

import ollama
import openai
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode

pytestmark = pytest.mark.sim

TALKER = SimModel("llama3.2:3b", capabilities=("completion", "tools", "thinking"))
EMBEDDER = SimModel("nomic-embed-text", capabilities=("embedding",), embedding_length=16)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look out of the window.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(TALKER, EMBEDDER))) as made:
        yield made


@pytest.fixture
async def native(node: SimNode) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=node.url)
    yield client
    await client._client.aclose()


@pytest.fixture
async def openai_client(node: SimNode) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_ollama_chat_and_generate(native: ollama.AsyncClient) -> None:
    whole = await native.chat("llama3.2:3b", messages=said("hi"), think=False)
    parts = [
        part
        async for part in await native.chat(
            "llama3.2:3b", messages=said("hi"), think=False, stream=True
        )
    ]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done
    assert parts[-1].eval_count == len(parts) - 1
    thought = await native.chat("llama3.2:3b", messages=said("hi"))
    assert thought.message.thinking
    generated = await native.generate("llama3.2:3b", prompt="hi", options={"num_predict": 4})
    assert generated.done_reason == "length"
    assert generated.context is not None
    assert generated.prompt_eval_count is not None
    assert generated.eval_count == 4


async def test_ollama_tool_call(native: ollama.AsyncClient) -> None:
    messages = said("weather in Rome?")
    first = await native.chat("llama3.2:3b", messages=messages, tools=[TOOL])
    assert first.message.tool_calls is not None
    assert set(first.message.tool_calls[0].function.arguments) == {"city"}
    second = await native.chat(
        "llama3.2:3b",
        messages=[*messages, first.message, {"role": "tool", "content": "sunny"}],
        tools=[TOOL],
    )
    assert second.message.content
    assert not second.message.tool_calls


async def test_ollama_inventory_and_pull(native: ollama.AsyncClient) -> None:
    assert [model.model for model in (await native.list()).models] == [
        "llama3.2:3b",
        "nomic-embed-text:latest",
    ]
    shown = await native.show("llama3.2:3b")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert (await native.ps()).models == []
    await native.generate("llama3.2:3b")
    assert [model.model for model in (await native.ps()).models] == ["llama3.2:3b"]
    steps = [step async for step in await native.pull("qwen3:8b", stream=True)]
    assert steps[-1].status == "success"
    assert (await native.pull("phi4")).status == "success"
    assert len((await native.list()).models) == 4
    await native.copy("phi4", "phi")
    await native.delete("phi4")
    with pytest.raises(ollama.ResponseError, match="model 'phi4' not found"):
        await native.chat("phi4", messages=said("hi"))


async def test_ollama_embed(native: ollama.AsyncClient) -> None:
    answer = await native.embed("nomic-embed-text", input=["a", "b"])
    assert [len(vector) for vector in answer.embeddings] == [16, 16]
    old = await native.embeddings("nomic-embed-text", prompt="a")
    assert list(old.embedding) == pytest.approx([8 * value for value in answer.embeddings[0]])


async def test_ollama_blob(native: ollama.AsyncClient, node: SimNode) -> None:
    def upload() -> str:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"weights" * 100_000)
            file.flush()
            with ollama.Client(host=node.url) as client:
                return str(client.create_blob(file.name))

    digest = await asyncio.to_thread(upload)
    assert digest in node.state.blobs
    assert node.state.blob_bytes_received == 700_000


async def test_openai_chat(openai_client: openai.AsyncOpenAI) -> None:
    whole = await openai_client.chat.completions.create(
        model="llama3.2:3b", messages=[{"role": "user", "content": "hi"}], reasoning_effort="none"
    )
    stream = await openai_client.chat.completions.create(
        model="llama3.2:3b",
        messages=[{"role": "user", "content": "hi"}],
        reasoning_effort="none",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


async def test_openai_tool_call_and_json(openai_client: openai.AsyncOpenAI) -> None:
    called = await openai_client.chat.completions.create(
        model="llama3.2:3b",
        messages=[{"role": "user", "content": "weather in Rome?"}],
        tools=[TOOL],  # type: ignore[list-item]
    )
    assert called.choices[0].finish_reason == "tool_calls"
    call = (called.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"city"}
    shaped = await openai_client.chat.completions.create(
        model="llama3.2:3b",
        messages=[{"role": "user", "content": "hi"}],
        response_format={"type": "json_object"},
    )
    assert json.loads(shaped.choices[0].message.content or "")


async def test_openai_completions_models_and_embeddings(openai_client: openai.AsyncOpenAI) -> None:
    text = await openai_client.completions.create(model="llama3.2:3b", prompt="hi", max_tokens=3)
    assert text.choices[0].finish_reason == "length"
    assert text.usage is not None
    assert text.usage.completion_tokens == 3
    stream = await openai_client.completions.create(
        model="llama3.2:3b", prompt="hi", max_tokens=3, stream=True
    )
    parts = [chunk.choices[0].text async for chunk in stream]
    assert "".join(parts) == text.choices[0].text
    assert [model.id async for model in openai_client.models.list()] == [
        "llama3.2:3b",
        "nomic-embed-text:latest",
    ]
    packed = await openai_client.embeddings.create(model="nomic-embed-text", input=["a", "b"])
    plain = await openai_client.embeddings.create(
        model="nomic-embed-text", input="a", encoding_format="float"
    )
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        await openai_client.completions.create(model="nope", prompt="hi")
