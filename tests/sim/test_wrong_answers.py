"""Nodes that answer at once, but with what is no answer: who is asked, blamed and told what."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from sollol.types import NodeState
from tests.gateways import RunningGateway, assert_idle, running_gateway
from tests.ollama_script import OllamaScript, ollama_script, openai_script, plain, sse

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
CONFIG = SimConfig(models=(SimModel(MODEL),))
EJECTED, HEALTHY = NodeState.EJECTED, NodeState.HEALTHY
MESSAGES = [{"role": "user", "content": "hi"}]
PAGE = "<html>come back later</html>"
SIGN_IN = b'{"error":"unauthorized","signin_url":"https://ollama.com/connect?name=a&key=b"}'


@contextlib.asynccontextmanager
async def fleet(count: int) -> AsyncIterator[tuple[list[SimNode], RunningGateway]]:
    """Yield nodes that are ejected by one failure, asked in turn, and their gateway."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(SimNode(CONFIG)) for _ in range(count)]
        running = running_gateway(
            *(node.url for node in nodes),
            failover={"eject_after": 1, "eject_s": 300},
            scheduling={"policy": "round_robin"},
            upstream={"stall_timeout_s": 0.3},
        )
        yield nodes, await stack.enter_async_context(running)


async def ask(
    running: RunningGateway, path: str = "/api/chat", *, model: str = MODEL, stream: bool = False
) -> httpx.Response:
    body: dict[str, Any] = {"model": model, "messages": MESSAGES, "stream": stream}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(running.url + path, json=body)


def states(running: RunningGateway) -> list[NodeState]:
    return sorted(view.state for view in running.gateway.registry.views())


def last_errors(running: RunningGateway) -> list[str]:
    return [view.last_error for view in running.gateway.registry.views() if view.last_error]


def said(status: int, body: str = PAGE, content_type: str = "text/html") -> Fault:
    return Fault("answer", path="/api/chat", status=status, body=body, content_type=content_type)


async def test_an_operator_sees_that_a_key_is_wrong() -> None:
    async with fleet(2) as (nodes, running):
        nodes[0].set_fault(said(401, '{"error":"unauthorized"}', "application/json"))
        assert {(await ask(running)).status_code for _ in range(3)} == {200}
        assert states(running) == [EJECTED, HEALTHY]
        (error,) = last_errors(running)
        assert "401" in error
        assert "check its api_key" in error


@pytest.mark.parametrize(
    "fault",
    [said(200), said(302, ""), said(403, ""), said(400), said(200, "{}", "application/json")],
)
async def test_without_another_node_a_caller_is_told_what_the_node_answered(fault: Fault) -> None:
    async with fleet(1) as (nodes, running):
        nodes[0].set_fault(fault)
        answer = await ask(running)
        assert (answer.status_code, answer.headers["x-sollol-attempts"]) == (502, "1")
        told = answer.json()["error"]
        assert f"gave no answer of this route, but {fault.status} with" in told
        assert (PAGE in told) == (fault.body == PAGE)


async def test_openai_clients_are_told_in_their_form() -> None:
    page = plain(200, "text/html", PAGE.encode())
    async with (
        ollama_script({"/v1/chat/completions": page}) as node,
        running_gateway(node.url) as running,
    ):
        answer = await ask(running, "/v1/chat/completions", model="m")
        assert answer.status_code == 502
        assert PAGE in answer.json()["error"]["message"]


async def test_a_proxy_that_refuses_what_a_node_takes_is_blamed() -> None:
    async with fleet(2) as (nodes, running):
        nodes[0].set_fault(said(413))
        assert {(await ask(running)).status_code for _ in range(3)} == {200}
        assert states(running) == [EJECTED, HEALTHY]


async def test_what_all_nodes_refuse_is_the_requests_fault() -> None:
    async with fleet(3) as (nodes, running):
        for node in nodes:
            node.set_fault(said(413))
        answer = await ask(running)
        assert (answer.status_code, answer.headers["x-sollol-attempts"]) == (502, "3")
        assert states(running) == [HEALTHY] * 3


@pytest.mark.parametrize(
    ("status", "body"), [(400, b'{"error":"odd"}'), (413, b'{"error":"long"}'), (401, SIGN_IN)]
)
async def test_what_an_engine_says_of_a_request_is_final(status: int, body: bytes) -> None:
    refused = plain(status, "application/json", body)
    async with (
        ollama_script({"/api/chat": refused}) as one,
        ollama_script({"/api/chat": refused}) as two,
        running_gateway(one.url, two.url, failover={"eject_after": 1}) as running,
    ):
        answer = await ask(running, model="m")
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["x-sollol-attempts"] == "1"
        assert states(running) == [HEALTHY] * 2


async def test_a_cloud_model_may_be_refused_in_any_words() -> None:
    body = b'{"error":{"message":"unauthorized","type":"api_error"}}'
    refused = {"/v1/chat/completions": plain(401, "application/json", body)}
    async with (
        ollama_script(refused, models=("m:cloud",)) as node,
        running_gateway(node.url) as running,
    ):
        answer = await ask(running, "/v1/chat/completions", model="m:cloud")
        assert (answer.status_code, answer.content) == (401, body)


@pytest.mark.parametrize(
    "page",
    [
        plain(200, "text/html", PAGE.encode()),
        plain(200, "text/html", b"x" * (1 << 21)),
        plain(200, "application/json", b"[]"),
        plain(403, "text/html", b""),
    ],
)
async def test_facts_of_a_model_are_an_object(page: bytes) -> None:
    facts = plain(200, "application/json", b'{"details":{}}')
    async with (
        ollama_script({"/api/show": page}) as one,
        ollama_script({"/api/show": facts}) as two,
        running_gateway(one.url, two.url) as running,
    ):
        for _ in range(4):
            answer = await ask(running, "/api/show", model="m")
            assert (answer.status_code, answer.content) == (200, b'{"details":{}}')


@pytest.mark.parametrize("stream", [True, False])
async def test_a_form_that_was_not_asked_for_is_no_answer(*, stream: bool) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    streamed = sse(event, b"data: [DONE]\n\n")
    whole = plain(200, "application/json", b'{"choices":[{"index":0}],"usage":{}}')
    path = "/v1/chat/completions"
    wrong, right = (whole, streamed) if stream else (streamed, whole)
    async with (
        ollama_script({path: wrong}) as one,
        ollama_script({path: right}) as two,
        running_gateway(one.url, two.url) as running,
    ):
        answers = [await ask(running, path, model="m", stream=stream) for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.headers["x-sollol-node"] for answer in answers} == {two.url[7:]}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("kind", "body"), [("text/html", PAGE), ("", ""), ("application/json", "{}")]
)
async def test_a_404_in_no_engines_words_does_not_tell_that_a_model_is_gone(
    path: str, kind: str, body: str
) -> None:
    async with fleet(2) as (nodes, running):
        nodes[0].set_fault(
            Fault("answer", path=path, status=404, body=body, content_type=kind, times=1)
        )
        answers = [await ask(running, path) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.headers["x-sollol-attempts"] for answer in answers} == {"1", "2"}
        assert states(running) == [EJECTED, HEALTHY]
        (error,) = last_errors(running)
        assert "gave no answer of this route, but 404 with" in error
        assert all(view.models for view in running.gateway.registry.views())


async def test_without_another_node_a_caller_is_told_of_a_404_that_is_a_page() -> None:
    async with fleet(1) as (nodes, running):
        nodes[0].set_fault(said(404))
        answer = await ask(running)
        assert (answer.status_code, answer.headers["x-sollol-attempts"]) == (502, "1")
        assert PAGE in answer.json()["error"]
        nodes[0].clear_faults()
        assert (await ask(running)).status_code == 200  # the model is known to be there still


async def test_a_404_of_a_route_we_do_not_know_is_passed_on_as_it_came() -> None:
    page = plain(404, "text/html", PAGE.encode())
    async with ollama_script({"/api/later": page}) as node, running_gateway(node.url) as running:
        answer = await ask(running, "/api/later", model="m")
        assert (answer.status_code, answer.text) == (404, PAGE)
        assert states(running) == [HEALTHY]


@contextlib.asynccontextmanager
async def translated(wrong: bytes) -> AsyncIterator[tuple[OllamaScript, RunningGateway]]:
    """Yield a node that speaks OpenAI's API and answers wrongly, and a gateway over it."""
    async with (
        openai_script({"/v1/chat/completions": wrong}) as node,
        running_gateway(
            node.url, failover={"eject_after": 1}, upstream={"stall_timeout_s": 0.3}
        ) as running,
    ):
        yield node, running


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "content_type"),
    [(302, "text/html"), (403, "text/html"), (404, "text/html"), (204, "")],
)
async def test_a_translated_answer_is_looked_at_too(
    status: int, content_type: str, *, stream: bool
) -> None:
    async with translated(plain(status, content_type, b"")) as (_, running):
        answer = await ask(running, model="m", stream=stream)
        assert answer.status_code == 502
        assert f"gave no answer of this route, but {status}" in answer.json()["error"]
        assert states(running) == [EJECTED]


async def test_a_translated_stream_comes_in_events() -> None:
    whole = plain(200, "application/json", b'{"choices":[{"message":{"content":"a"}}]}')
    async with translated(whole) as (_, running):
        answer = await ask(running, model="m", stream=True)
        assert (answer.status_code, "error" in answer.json()) == (502, True)
        assert states(running) == [EJECTED]


async def test_a_translated_refusal_is_passed_on() -> None:
    refused = plain(400, "application/json", b'{"error":{"message":"odd","code":400}}')
    async with translated(refused) as (_, running):
        answer = await ask(running, model="m")
        assert (answer.status_code, answer.json()) == (400, {"error": "odd"})
        assert states(running) == [HEALTHY]


SAID = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("is_complete", [True, False])
async def test_a_complete_stream_that_is_cut_is_whole(path: str, *, is_complete: bool) -> None:
    whole, part = [SAID, b"data: [DONE]\n\n"], [SAID.replace(b'"stop"', b"null")]
    async with translated(sse(*(whole if is_complete else part), end=b"")) as (_, running):
        answer = await ask(running, path, model="m", stream=True)
        assert ("error" in answer.text) == (not is_complete)
        assert states(running) == [HEALTHY if is_complete else EJECTED]


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


@pytest.mark.parametrize("told", [[], [USAGE]])
@pytest.mark.parametrize("holds", [True, False])
async def test_a_translated_stream_is_whole_once_it_says_why_it_ended(
    told: list[bytes], *, holds: bool
) -> None:
    async with translated(sse(SAID, *told, end=b"")) as (node, running):
        node.holds = holds
        answer = await ask(running, model="m", stream=True)
        *_, last = map(json.loads, answer.text.splitlines())
        assert (last["done"], last["done_reason"]) == (True, "stop")
        assert last.get("eval_count") == (3 if told else None)
        assert states(running) == [HEALTHY]
        assert last_errors(running) == []
        await assert_idle(running)


async def test_a_passed_on_stream_of_events_ends_with_done() -> None:
    async with translated(sse(SAID, end=b"")) as (_, running):
        answer = await ask(running, "/v1/chat/completions", model="m", stream=True)
        assert '"error"' in answer.text
        assert states(running) == [EJECTED]


@pytest.mark.parametrize("fault", ["cut_at_end", "reset_at_end", "hang_at_end"])
async def test_nobody_is_blamed_for_what_comes_after_an_answer(fault: Any) -> None:
    async with fleet(1) as (nodes, running):
        nodes[0].set_fault(Fault(fault, path="/api/chat"))
        answer = await ask(running, stream=True)
        assert answer.text.splitlines()[-1].count('"done":true') == 1
        assert states(running) == [HEALTHY]
        assert last_errors(running) == []
        await assert_idle(running)


async def test_a_connection_is_kept_whose_body_ends_after_its_last_record() -> None:
    async with fleet(1) as (_, running):
        for _ in range(3):
            await ask(running, stream=True)
        node = running.gateway.registry.nodes()[0]
        statistics = node.connections.statistics()
        assert (statistics.open, statistics.opened_total) == (1, 1)
