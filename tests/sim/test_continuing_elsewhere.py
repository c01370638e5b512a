"""Which node goes on with a stream that broke off, when others fail before or after it."""

import json
from typing import Any, cast

import httpx
import pytest

from tests.gateways import running_gateway
from tests.ollama_script import ollama_script, plain

pytestmark = pytest.mark.sim

HI: Any = [{"role": "user", "content": "hi"}]


class InTurn:
    """Answers for several scripted nodes, in the order in which they are asked."""

    def __init__(self, *answers: bytes) -> None:
        self._rest = list(answers)

    def get(self, _: str, __: bytes) -> bytes:
        return self._rest.pop(0)


def said(*texts: str) -> bytes:
    """The beginning of a stream, which breaks off."""
    record = (
        '{"model":"m","response":"%s","message":{"role":"assistant","content":"%s"},"done":false}\n'
    )
    told = [(record % (text, text)).encode() for text in texts]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(record), record) for record in told)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def spoken(*texts: str) -> bytes:
    """A whole stream of ``/api/chat`` or ``/api/generate``."""
    end = b'{"model":"m","response":"","message":{"role":"assistant","content":""},"done":true,'
    end += b'"done_reason":"stop","prompt_eval_count":1,"eval_count":1}\n'
    return said(*texts) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end)


def probed(tokens: int) -> bytes:
    """The answer to a question for one token."""
    told = b'{"model":"m","message":{"role":"assistant","content":"a"},"done":true,'
    told += b'"done_reason":"length","prompt_eval_count":%d,"eval_count":1}' % tokens
    return plain(200, "application/json", told)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


BUSY = plain(503, "application/json", b'{"error":"server busy: maximum pending requests exceeded"}')
BROKEN = plain(500, "application/json", b'{"error":"boom"}')


async def in_turn(path: str, body: Any, *answers: bytes) -> tuple[str, dict[str, Any]]:
    """What the caller is told, and the journal, where three nodes together answer so in turn."""
    async with ollama_script() as a, ollama_script() as b, ollama_script() as c:
        a.answers = b.answers = c.answers = cast("dict[str, bytes]", InTurn(*answers))
        wanted: Any = {"failover": {"mid_stream": "continue"}}
        async with running_gateway(a.url, b.url, c.url, **wanted) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
                answer = await client.post(path, json={"model": "m"} | body)
                told = (await client.get("/sollol/v1/decisions")).json()["decisions"]
    return answer.text, told[0]


@pytest.mark.parametrize("first", [BUSY, BROKEN], ids=["full", "plain error"])
async def test_a_failure_that_broke_nothing_does_not_count(first: bytes) -> None:
    raw = {"prompt": "hi", "raw": True}
    text, told = await in_turn("/api/generate", raw, first, said("a", "b"), spoken("c"))
    assert [record.get("response") for record in lines(text)] == ["a", "b", "c", ""]
    assert told["continuation"]["outcome"] == "continued"


async def test_what_broke_two_nodes_is_given_to_no_third_one() -> None:
    raw = {"prompt": "hi", "raw": True}
    crash = plain(500, "application/json", b'{"error":"model runner has unexpectedly stopped"}')
    text, told = await in_turn("/api/generate", raw, crash, said("a"))
    assert "error" in lines(text)[-1]
    assert told["continuation"]["reason"] == "the request has broken other nodes before"


@pytest.mark.parametrize("first", [BUSY, BROKEN], ids=["full", "plain error"])
async def test_a_node_that_cannot_be_probed_is_not_the_last(first: bytes) -> None:
    rest = (first, probed(10), probed(11), spoken())
    text, told = await in_turn("/api/chat", {"messages": HI}, said("a"), *rest)
    assert lines(text)[-1]["done"]
    assert told["continuation"]["outcome"] == "continued"
