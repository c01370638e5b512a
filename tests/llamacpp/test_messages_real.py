"""Anthropic's messages and OpenAI's responses over a real llama.cpp, which has both by itself."""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from sollol.llamacpp.binaries import BINARY_PACKAGE, has_avx2
from sollol.llamacpp.small_model import MODEL_NAME, MODEL_PACKAGE
from tests.gateways import RunningGateway, running_gateway

CAN_RUN = has_avx2() and all(find_spec(name) for name in (BINARY_PACKAGE, MODEL_PACKAGE))
pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not CAN_RUN, reason="needs the extra `llama` and a CPU with AVX2"),
]

QUESTION: Any = [{"role": "user", "content": "Why is the sky blue?"}]
EMBEDDED = {
    "enabled": True,
    "context_length": 512,
    "threads": 1,
    "cache_dir": Path(__file__).parents[2] / ".cache" / "models",
}
TOOL: Any = {
    "name": "weather",
    "description": "Look out of the window.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running(anyio_backend: str) -> AsyncIterator[RunningGateway]:
    async with running_gateway(embedded=EMBEDDED) as gateway:
        await gateway.wait_healthy(1)
        yield gateway


@pytest.fixture
async def client(running: RunningGateway) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=running.url, api_key="unused", max_retries=0) as made:
        yield made


async def test_messages_whole_and_streamed(client: AsyncAnthropic) -> None:
    asked: Any = {"model": MODEL_NAME, "max_tokens": 4, "messages": QUESTION}
    asked["extra_body"] = {"temperature": 0}  # the client has no field for it
    whole = await client.messages.create(**asked)
    assert whole.content[0].type == "text"
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 4)
    async with client.messages.stream(**asked) as stream:
        events = [event.type async for event in stream]
        last = await stream.get_final_message()
    assert (events[0], events[-1]) == ("message_start", "message_stop")
    assert last.content[0].type == "text"
    assert last.content[0].text == whole.content[0].text
    assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 4)


async def test_tools_may_be_offered(client: AsyncAnthropic) -> None:
    answer = await client.messages.create(
        model=MODEL_NAME, max_tokens=4, messages=QUESTION, tools=[TOOL]
    )
    assert answer.type == "message"


async def test_a_question_too_long_is_the_callers_mistake(
    client: AsyncAnthropic, running: RunningGateway
) -> None:
    long: Any = [{"role": "user", "content": "word " * 1000}]
    with pytest.raises(anthropic.BadRequestError) as whole:
        await client.messages.create(model=MODEL_NAME, max_tokens=4, messages=long)
    with pytest.raises(anthropic.BadRequestError) as streamed:
        async with client.messages.stream(model=MODEL_NAME, max_tokens=4, messages=long):
            pass
    for refused in (whole.value, streamed.value):
        body: Any = refused.body
        assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
        assert "exceeds" in body["error"]["message"]
    (view,) = running.gateway.registry.views()
    assert view.state == "healthy"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "messages is required"),
        ({"messages": []}, "messages is required"),
        ({"messages": QUESTION, "max_tokens": 0}, "max_tokens is required and must be positive"),
    ],
)
async def test_what_ollama_refuses_is_refused(
    running: RunningGateway, fields: dict[str, Any], message: str
) -> None:
    """llama.cpp would answer 500, or answer without an end."""
    async with httpx.AsyncClient(base_url=running.url) as client:
        body = {"model": MODEL_NAME, "max_tokens": 4} | fields
        answer = await client.post("/v1/messages", json=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "error")
    error = {"type": "invalid_request_error", "message": message}
    assert answer.json()["error"] == error


async def test_responses_whole_and_streamed(running: RunningGateway) -> None:
    asked: Any = {"model": MODEL_NAME, "input": "hi", "max_output_tokens": 4, "temperature": 0}
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="unused") as client:
        whole = await client.responses.create(**asked)
        assert whole.status == "completed"
        events = [event async for event in await client.responses.create(**asked, stream=True)]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == whole.output_text
