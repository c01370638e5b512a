"""What the official ``anthropic`` and ``openai`` clients do with ``/v1/messages`` and ``/v1/responses``.

Each dialogue is held with a node directly, and with a gateway over nodes: it cannot tell them apart.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest

TALKER = "llama3.2:3b"
SILENT: Any = {"type": "disabled"}
QUESTION: Any = [{"role": "user", "content": "Why is the sky blue?"}]
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
DESCRIPTION = "Look out of the window."
ANTHROPIC_TOOL: Any = {"name": "weather", "description": DESCRIPTION, "input_schema": PARAMETERS}
OPENAI_TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": DESCRIPTION,
    "parameters": PARAMETERS,
    "strict": None,
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@asynccontextmanager
async def anthropic_client(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


@asynccontextmanager
async def openai_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def anthropic_messages(url: str) -> None:
    """A message, whole and as a stream; both are the same."""
    async with anthropic_client(url) as client:
        asked: Any = {"model": TALKER, "max_tokens": 8, "messages": QUESTION, "thinking": SILENT}
        whole = await client.messages.create(**asked)
        assert whole.content[0].type == "text"
        assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 8)
        async with client.messages.stream(**asked) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            last = await stream.get_final_message()
        assert text == whole.content[0].text
        assert last.stop_reason == "max_tokens"
        assert last.usage.output_tokens == 8


async def anthropic_tools(url: str) -> None:
    """A tool is asked for, whole and as a stream, and its result is answered."""
    async with anthropic_client(url) as client:
        asked: Any = {"model": TALKER, "max_tokens": 64, "tools": [ANTHROPIC_TOOL]}
        asked["thinking"] = SILENT
        whole = await client.messages.create(**asked, messages=QUESTION)
        assert whole.stop_reason == "tool_use"
        (call,) = whole.content
        assert call.type == "tool_use"
        assert set(call.input) == {"city"}
        async with client.messages.stream(**asked, messages=QUESTION) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0].type == "tool_use"
        assert streamed.content[0].input == call.input
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
        turns = [
            *QUESTION,
            {"role": "assistant", "content": [call.model_dump()]},
            {"role": "user", "content": [result]},
        ]
        told = await client.messages.create(**asked, messages=turns)
        assert told.content[0].type == "text"


async def anthropic_thinking_and_images(url: str) -> None:
    """Thoughts come in a block of their own; an image may be part of the question."""
    image: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
    }
    async with anthropic_client(url) as client:
        async with client.messages.stream(
            model=TALKER,
            max_tokens=2048,
            thinking={"type": "enabled", "budget_tokens": 1024},
            messages=[{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}],
        ) as stream:
            last = await stream.get_final_message()
    assert [block.type for block in last.content] == ["thinking", "text"]
    assert last.stop_reason == "end_turn"


async def anthropic_errors(url: str) -> None:
    """Refusals arrive as the client's own exceptions."""
    async with anthropic_client(url) as client:
        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
            await client.messages.create(model="nope", max_tokens=8, messages=QUESTION)
        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
            async with client.messages.stream(model="nope", max_tokens=8, messages=QUESTION):
                pass
        with pytest.raises(anthropic.BadRequestError, match="max_tokens is required"):
            await client.messages.create(model=TALKER, max_tokens=0, messages=QUESTION)


async def openai_responses(url: str) -> None:
    """A response, whole and as a stream; both say the same."""
    async with openai_client(url) as client:
        asked: Any = {"model": TALKER, "input": QUESTION, "max_output_tokens": 8}
        asked["reasoning"] = {"effort": "none"}
        whole = await client.responses.create(**asked)
        assert whole.output_text
        events = [event async for event in await client.responses.create(**asked, stream=True)]
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == whole.output_text
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == whole.output_text


async def openai_responses_reason_and_call(url: str) -> None:
    """Thoughts are an item of their own; a tool is asked for, and its result is answered."""
    async with openai_client(url) as client:
        thought = await client.responses.create(model=TALKER, input="hi")
        assert [item.type for item in thought.output] == ["reasoning", "message"]
        asked: Any = {"model": TALKER, "tools": [OPENAI_TOOL], "reasoning": {"effort": "none"}}
        called = await client.responses.create(**asked, input=QUESTION)
        (call,) = called.output
        assert call.type == "function_call"
        assert set(json.loads(call.arguments)) == {"city"}
        async with client.responses.stream(**asked, input=QUESTION) as stream:
            streamed = await stream.get_final_response()
        assert streamed.output[0].type == "function_call"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
        turns = [*QUESTION, call.model_dump(), result]
        assert (await client.responses.create(**asked, input=turns)).output_text


async def openai_responses_shape_and_errors(url: str) -> None:
    """A schema shapes the text; refusals arrive as the client's own exceptions."""
    shape: Any = {"type": "json_schema", "name": "place", "schema": PARAMETERS}
    async with openai_client(url) as client:
        shaped = await client.responses.create(model=TALKER, input="hi", text={"format": shape})
        assert set(json.loads(shaped.output_text)) == {"city"}
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
            await client.responses.create(model="nope", input="hi")
        items: Any = [{"type": "zzz"}]
        with pytest.raises(openai.BadRequestError, match="unknown input item type"):
            await client.responses.create(model=TALKER, input=items)


async def openai_transcribes(url: str) -> None:
    """Speech becomes text."""
    async with openai_client(url) as client:
        heard = await client.audio.transcriptions.create(model=TALKER, file=("a.wav", b"RIFF"))
        assert heard.text


DIALOGUES = (
    anthropic_messages,
    anthropic_tools,
    anthropic_thinking_and_images,
    anthropic_errors,
    openai_responses,
    openai_responses_reason_and_call,
    openai_responses_shape_and_errors,
    openai_transcribes,
)
