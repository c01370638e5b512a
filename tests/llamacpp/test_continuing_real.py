"""A stream that is cut off on one real llama-server goes on on another, as one answer.

Decoding is greedy. An engine does not decide near ties the same way in every batch, cut off or not,
so the questions are some whose answers have none.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from sollol.ports import free_port
from tests.cutting_relay import CuttingRelay, cutting_relay
from tests.gateways import RunningGateway, running_gateway
from tests.llamacpp.test_translate_real import start, wait_ready

pytestmark = pytest.mark.llamacpp

MODEL = "gemma3:270m"
TOKENS = 5
FRANCE = "What is the capital of France?"
OPTIONS = {"options": {"temperature": 0, "seed": 1, "num_predict": TOKENS}}
GREEDY = {"temperature": 0, "seed": 1, "max_tokens": TOKENS, "stream": True}
CHAT = {"messages": [{"role": "user", "content": FRANCE}]}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", CHAT | OPTIONS),
    "generate": ("/api/generate", {"prompt": FRANCE} | OPTIONS),
    "raw": ("/api/generate", {"prompt": "1, 2, 3, 4,", "raw": True} | OPTIONS),
    "v1": (
        "/v1/chat/completions",
        CHAT | GREEDY | {"stream_options": {"include_usage": True}},
    ),
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("two")
    servers = []
    try:
        for name in "ab":
            port, log = free_port(), folder / f"{name}.log"
            with log.open("wb") as log_file:
                servers.append((start(port, folder, log_file), port, log))
        for server, port, log in servers:
            wait_ready(server, f"http://127.0.0.1:{port}", log)
        yield [port for _, port, _ in servers]
    finally:
        for server, _, _ in servers:
            server.kill()  # asked nicely, it waits for its connections
            server.wait(timeout=20)


@pytest.fixture(scope="module")
async def relay(ports: list[int]) -> AsyncIterator[CuttingRelay]:
    async with cutting_relay(ports[0]) as made:
        yield made


@pytest.fixture(scope="module")
async def running(ports: list[int], relay: CuttingRelay) -> AsyncIterator[RunningGateway]:
    nodes = [
        {"url": relay.url, "name": "a"},
        {"url": f"http://127.0.0.1:{ports[1]}", "name": "b"},
    ]
    failover = {"mid_stream": "continue", "eject_after": 10**6, "retry_reserve": 10**6}
    scheduling = {"policy": "round_robin"}
    async with running_gateway(*nodes, failover=failover, scheduling=scheduling) as gateway:
        yield gateway


def read(path: str, text: str) -> tuple[str, list[Any]]:
    """The text of an answer, and what its end tells."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.strip()]
    if path.startswith("/api/"):
        records = [json.loads(line) for line in lines]
        last = records[-1]
        said = [r["message"]["content"] if "message" in r else r["response"] for r in records]
        return "".join(said), [last[n] for n in ("done_reason", "prompt_eval_count", "eval_count")]
    assert lines.pop() == "[DONE]"
    events = [json.loads(line) for line in lines]
    assert len({(e["id"], e["model"]) for e in events}) == 1
    choices = [c for e in events for c in e["choices"]]
    assert [c["delta"].get("role") for c in choices if "role" in c["delta"]] == ["assistant"]
    reasons = [c["finish_reason"] for c in choices if c["finish_reason"]]
    usage = events[-1]["usage"]
    counts = [usage[n] for n in ("prompt_tokens", "completion_tokens", "total_tokens")]
    return "".join(c["delta"].get("content") or "" for c in choices), [*reasons, *counts]


@pytest.mark.parametrize("case", CASES)
async def test_a_cut_at_every_token(
    case: str, relay: CuttingRelay, running: RunningGateway
) -> None:
    path, fields = CASES[case]
    body = {"model": MODEL} | fields
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
        whole = read(path, (await client.post(path, json=body)).text)
        assert whole[0]
        events = TOKENS + (2 if path.startswith("/v1/") or case != "raw" else 0)
        for cut_after in range(1, events):
            before = relay.cuts
            relay.cut_after = cut_after
            answer = httpx.Response(500)
            while relay.cuts == before:
                answer = await client.post(path, json=body)
            assert read(path, answer.text) == whole, (cut_after, answer.text)
            told = (await client.get("/sollol/v1/decisions?limit=1")).json()["decisions"][0]
            if cut_after > 1 or case == "raw":
                assert told["continuation"]["outcome"] == "continued"
