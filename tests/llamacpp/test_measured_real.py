"""What is measured of the answers of a real llama.cpp, in every dialect that reaches it."""

from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol.llamacpp.binaries import BINARY_PACKAGE, has_avx2
from sollol.llamacpp.small_model import MODEL_NAME, MODEL_PACKAGE
from sollol.types import Measured
from tests.gateways import running_gateway
from tests.watched import WatchedAdmission, watched

CAN_RUN = has_avx2() and all(find_spec(name) for name in (BINARY_PACKAGE, MODEL_PACKAGE))
pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(not CAN_RUN, reason="needs the extra `llama` and a CPU with AVX2"),
]

EMBEDDED = {
    "enabled": True,
    "context_length": 512,
    "threads": 1,
    "cache_dir": Path(__file__).parents[2] / ".cache" / "models",
}
TOKENS = 3
QUESTION = [{"role": "user", "content": "Count from one to one hundred, please."}]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def world(anyio_backend: str) -> AsyncIterator[tuple[httpx.AsyncClient, WatchedAdmission]]:
    async with running_gateway(embedded=EMBEDDED) as running:
        await running.wait_healthy(1)
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            yield client, watched(running)


async def measured(
    world: tuple[httpx.AsyncClient, WatchedAdmission], path: str, fields: dict[str, Any]
) -> Measured:
    client, watch = world
    answer = await client.post(path, json={"model": MODEL_NAME, **fields})
    assert answer.status_code == 200, answer.text
    sut = watch.last
    assert sut.first_byte_s is not None
    assert sut.total_s is not None
    assert 0 < sut.first_byte_s <= sut.total_s < 60
    return sut


OLLAMA = {"messages": QUESTION, "options": {"num_predict": TOKENS, "temperature": 0}}
OPENAI = {"messages": QUESTION, "max_tokens": TOKENS, "temperature": 0}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/chat", OLLAMA),
        ("/api/generate", {"prompt": "Count: one,", "options": {"num_predict": TOKENS}}),
        ("/api/generate", {"prompt": "1 2 3", "raw": True, "options": {"num_predict": TOKENS}}),
        ("/v1/chat/completions", OPENAI),
        ("/v1/completions", {"prompt": "1, 2, 3,", "max_tokens": TOKENS}),
    ],
)
async def test_times_and_tokens_of_text(
    world: tuple[httpx.AsyncClient, WatchedAdmission],
    path: str,
    fields: dict[str, Any],
    stream: bool,
) -> None:
    sut = await measured(world, path, {**fields, "stream": stream})
    assert sut.prompt_tokens is not None
    assert sut.cached_tokens is not None
    assert 0 <= sut.cached_tokens <= sut.prompt_tokens < 200
    assert sut.output_tokens is not None
    assert 0 < sut.output_tokens <= TOKENS
    assert sut.prompt_s is not None
    assert sut.output_s is not None
    assert sut.total_s is not None
    assert 0 < sut.prompt_s + sut.output_s < sut.total_s
    assert (sut.pieces > 0) is stream


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_of_messages(
    world: tuple[httpx.AsyncClient, WatchedAdmission], stream: bool
) -> None:
    sut = await measured(world, "/v1/messages", {**OPENAI, "stream": stream})
    assert sut.prompt_tokens
    assert sut.output_tokens == TOKENS


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_of_responses(
    world: tuple[httpx.AsyncClient, WatchedAdmission], stream: bool
) -> None:
    fields = {"input": "Count, please.", "max_output_tokens": TOKENS, "stream": stream}
    sut = await measured(world, "/v1/responses", fields)
    assert sut.prompt_tokens
    assert sut.output_tokens


async def test_what_is_cached_is_seen(
    world: tuple[httpx.AsyncClient, WatchedAdmission],
) -> None:
    fields = {**OPENAI, "messages": [{"role": "user", "content": "a lake " * 40}]}
    first = await measured(world, "/v1/chat/completions", fields)
    again = await measured(world, "/v1/chat/completions", {**fields, "stream": True})
    assert first.prompt_tokens == again.prompt_tokens
    assert first.cached_tokens is not None
    assert again.cached_tokens is not None
    assert again.cached_tokens > first.cached_tokens + 40


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings"])
async def test_tokens_of_embeddings(
    world: tuple[httpx.AsyncClient, WatchedAdmission], path: str
) -> None:
    sut = await measured(world, path, {"input": ["the sea", "the land"]})
    assert sut.prompt_tokens is not None
    assert 2 <= sut.prompt_tokens < 20
    assert sut.output_tokens is None
