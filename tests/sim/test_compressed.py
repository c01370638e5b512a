"""Bodies that come compressed."""

import json
import sys
import zlib

import httpx
import pytest

from sollol.wire.compression import MAX_DECOMPRESSED_BYTES
from tests.gateways import running_gateway
from tests.ollama_script import ollama_script, plain

if sys.version_info >= (3, 14):
    from compression.zstd import compress
else:
    from backports.zstd import compress

pytestmark = pytest.mark.sim

BODY = json.dumps({"model": "m", "input": "x" * 200_000}).encode()
ZSTD = {"Content-Encoding": "zstd"}


async def test_a_node_gets_it_as_it_was_before() -> None:
    answers = {"/v1/responses": plain(200, "application/json", b'{"output":[]}')}
    async with (
        ollama_script(answers) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/v1/responses", content=compress(BODY), headers=ZSTD)
        assert answer.status_code == 200
        assert node.seen == [(b"/v1/responses", BODY)]


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"{}", 400, "failed to decompress"),
        (b"", 400, "ends too early"),
        (compress(BODY)[:-4], 400, "ends too early"),
        (compress(bytes(MAX_DECOMPRESSED_BYTES + 1)), 413, "when decompressed"),
    ],
)
async def test_what_cannot_be_decompressed_is_refused(
    content: bytes, status: int, text: str
) -> None:
    async with (
        ollama_script() as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/v1/chat/completions", content=content, headers=ZSTD)
        assert answer.status_code == status
        assert text in answer.json()["error"]["message"]
        assert node.seen == []


async def test_elsewhere_the_header_means_nothing() -> None:
    answers = {"/api/chat": plain(200, "application/json", b'{"done":true}')}
    async with (
        ollama_script(answers) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/api/chat", content=b'{"model":"m"}', headers=ZSTD)
        assert answer.status_code == 200


async def test_an_answer_that_comes_compressed_is_called_so() -> None:
    body = zlib.compress(b'{"answer":42}')
    content_type = "application/json\r\nContent-Encoding: deflate"
    async with (
        ollama_script({"/v1/other": plain(200, content_type, body)}) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/v1/other", json={"model": "m"})
        assert answer.json() == {"answer": 42}
