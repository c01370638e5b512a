"""Pins, aliases, fallbacks, allow and deny lists, and changed bodies, over real nodes."""

import json
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.settings import Settings
from tests.fleets import Fleet, a_fleet
from tests.gateways import make_settings, running_gateway, wait_for
from tests.ollama_script import ollama_script, plain

pytestmark = pytest.mark.sim

LARGE, SMALL = "llama3.1:70b", "llama3.1:8b"
BOTH = SimConfig(models=(SimModel(LARGE), SimModel(SMALL)), slots=4)
ONLY_SMALL = SimConfig(models=(SimModel(SMALL),), slots=4)
ROOMY = SimConfig(models=(SimModel(SMALL, context_length=131_072),), slots=4, vram_gib=12)


def chat(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": model, "messages": messages, "stream": False, **fields}


def asked(node: SimNode, path: str = "/api/chat") -> list[dict[str, Any]]:
    """The bodies that a node got."""
    return [json.loads(seen.body) for seen in node.requests if seen.path == path]


async def kill(node: SimNode) -> None:
    await node.stop_listening()
    node.reset_connections()


async def error_of(fleet: Fleet, model: str) -> tuple[int, str]:
    answer = await fleet.post("/api/chat", chat(model))
    return answer.status_code, answer.json()["error"]


async def test_a_pinned_model_is_answered_by_the_nodes_it_is_pinned_to() -> None:
    async with a_fleet(BOTH, BOTH, models={LARGE: {"pin": ["b"]}}) as fleet:
        nodes = {
            (await fleet.post("/api/chat", chat(LARGE))).headers["x-sollol-node"] for _ in range(6)
        }
        assert nodes == {"b"}
        await kill(fleet.nodes[1])
        status, text = await error_of(fleet, LARGE)
        while status == 502:  # the node is not known to be down yet
            status, text = await error_of(fleet, LARGE)
        assert status == 503
        assert text == "no node that the model is pinned to is available (b)"
        await fleet.nodes[1].start_listening()
        await fleet.running.wait_healthy(2)


async def test_a_model_that_is_denied_everywhere_is_as_unknown() -> None:
    async with SimNode(BOTH) as node:
        listed = {"url": node.url, "name": "a", "deny_models": ["*:70b"]}
        async with (
            running_gateway(listed) as running,
            httpx.AsyncClient(base_url=running.url) as client,
        ):
            answer = await client.post("/api/chat", json=chat(LARGE))
            assert (answer.status_code, answer.json()) == (
                404,
                {"error": f"model '{LARGE}' not found"},
            )
            assert (await client.post("/api/show", json={"model": LARGE})).status_code == 404
            assert (await client.post("/api/chat", json=chat(SMALL))).status_code == 200
            tags = (await client.get("/api/tags")).json()["models"]
            assert [tag["name"] for tag in tags] == [SMALL]


async def test_a_node_may_be_allowed_few_models() -> None:
    async with SimNode(BOTH) as one, SimNode(BOTH) as two:
        nodes = (
            {"url": one.url, "name": "a", "allow_models": [SMALL]},
            {"url": two.url, "name": "b"},
        )
        async with (
            running_gateway(*nodes) as running,
            httpx.AsyncClient(base_url=running.url) as client,
        ):
            for _ in range(4):
                assert (await client.post("/api/chat", json=chat(LARGE))).headers[
                    "x-sollol-node"
                ] == "b"


async def test_an_alias_is_sent_on_under_the_real_name(capsys: pytest.CaptureFixture[str]) -> None:
    async with a_fleet(BOTH, models={"gpt-4o": {"alias_of": LARGE}}) as fleet:
        answer = await fleet.post("/api/chat", chat("gpt-4o", x_new=1))
        assert answer.json()["model"] == LARGE
        assert answer.headers["x-sollol-model"] == LARGE
        (seen,) = asked(fleet.nodes[0])
        assert (seen["model"], seen["x_new"]) == (LARGE, 1)
        v1 = await fleet.post("/v1/chat/completions", chat("GPT-4o:latest"))
        assert v1.json()["model"] == LARGE
        plainly = await fleet.post("/api/chat", chat(LARGE))
        assert "x-sollol-model" not in plainly.headers
    lines = [line for line in capsys.readouterr().out.splitlines() if "request_done" in line]
    assert "gpt-4o" in lines[0]
    assert "answering_model" in lines[0]
    assert "answering_model" not in lines[2]


async def test_an_alias_is_listed_and_shown_with_what_is_known_of_its_target() -> None:
    async with a_fleet(BOTH, models={"gpt-4o": {"alias_of": LARGE}}) as fleet:
        tags = {t["name"]: t for t in (await fleet.client.get("/api/tags")).json()["models"]}
        assert set(tags) == {LARGE, SMALL, "gpt-4o"}
        assert tags["gpt-4o"]["model"] == "gpt-4o"
        assert tags["gpt-4o"]["digest"] == tags[LARGE]["digest"]
        ids = [entry["id"] for entry in (await fleet.client.get("/v1/models")).json()["data"]]
        assert "gpt-4o" in ids
        assert (await fleet.client.get("/v1/models/gpt-4o")).json()["id"] == "gpt-4o"
        for body in ({"model": "gpt-4o"}, {"name": "gpt-4o"}):
            shown = await fleet.post("/api/show", body)
            assert (await fleet.post("/api/show", {"model": LARGE})).json() == shown.json()


async def test_an_alias_in_a_form_is_replaced_too() -> None:
    path = "/v1/audio/transcriptions"
    ok = {path: plain(200, "application/json", b"{}")}
    async with (
        ollama_script(ok) as node,
        running_gateway(node.url, models={"whisper-1": {"alias_of": "m"}}) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        files = {"file": ("a.wav", b"\0" * 100_000)}
        answer = await client.post(path, data={"model": "whisper-1"}, files=files)
        assert answer.status_code == 200
        (sent,) = [body for _, body in node.seen]
        assert b'name="model"\r\n\r\nm\r\n' in sent
        assert b"\0" * 100_000 in sent
        fallback = await client.post(path, data={"model": "nope"}, files=files)
        assert fallback.status_code == 404


async def test_a_fallback_answers_for_a_model_that_is_unknown_or_down() -> None:
    rules = {LARGE: {"fallback": ["nope", "small"]}, "small": {"alias_of": SMALL}}
    async with a_fleet(BOTH, ONLY_SMALL, models=rules) as fleet:
        own = await fleet.post("/api/chat", chat(LARGE))
        assert own.json()["model"] == LARGE
        assert "x-sollol-model" not in own.headers
        await kill(fleet.nodes[0])
        for _ in range(2):  # the first finds out that the node is down
            other = await fleet.post("/api/chat", chat(LARGE, x_new=1))
            assert other.status_code == 200
            assert other.json()["model"] == SMALL
            assert other.headers["x-sollol-model"] == SMALL
            assert other.headers["x-sollol-node"] == "b"
        assert asked(fleet.nodes[1])[-1]["x_new"] == 1
        unload = await fleet.post("/api/chat", {"model": LARGE, "keep_alive": 0})
        assert unload.status_code == 503
        await fleet.nodes[0].start_listening()
        await fleet.running.wait_healthy(2)


async def test_a_fallback_for_a_form() -> None:
    path = "/v1/audio/transcriptions"
    ok = {path: plain(200, "application/json", b"{}")}
    async with (
        ollama_script(ok) as node,
        running_gateway(node.url, models={"whisper": {"fallback": ["m"]}}) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        files = {"file": ("a.wav", b"\0")}
        answer = await client.post(path, data={"model": "whisper"}, files=files)
        assert answer.headers["x-sollol-model"] == "m"


async def test_when_no_fallback_is_to_be_had_the_error_is_the_one_that_says_most() -> None:
    rules = {"one": {"fallback": ["two"]}, "three": {"fallback": [LARGE]}, LARGE: {"pin": ["away"]}}
    async with a_fleet(ONLY_SMALL, models=rules) as fleet:
        assert await error_of(fleet, "one") == (404, "model 'one' not found")
        status, text = await error_of(fleet, "three")
        assert status == 503
        assert "pinned to" in text


async def test_what_a_node_answers_is_final_once_it_began() -> None:
    """A node that lacks the model after all counts as none that has it."""
    missing = {"/api/chat": plain(404, "application/json", b'{"error":"model not found"}')}
    async with (
        ollama_script(missing, models=("m",)) as stale,
        SimNode(ONLY_SMALL) as node,
        running_gateway(stale.url, node.url, models={"m": {"fallback": [SMALL]}}) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        answer = await client.post("/api/chat", json=chat("m"))
        assert answer.json()["model"] == SMALL


@pytest.mark.parametrize("protection", ["off", "strip", "route"])
async def test_runner_options_are_treated_as_the_setting_says(protection: str) -> None:
    scheduling = {"context_protection": protection}
    async with a_fleet(ROOMY, scheduling=scheduling) as fleet:
        (node,) = fleet.nodes
        sizes = (16_384, 2048, 16_384, 4096)
        stripped = []
        for num_ctx in sizes:
            options = {"num_ctx": num_ctx, "temperature": 0.5}
            answer = await fleet.post("/api/chat", chat(SMALL, options=options))
            assert answer.status_code == 200
            stripped.append(answer.headers.get("x-sollol-stripped"))
        sent = [body["options"] for body in asked(node)]
        if protection == "strip":
            assert sent == [{"num_ctx": 16_384, "temperature": 0.5}] * 4
            assert stripped == [None, "num_ctx", None, "num_ctx"]
            assert len(node.loads) == 1
        else:
            assert [options["num_ctx"] for options in sent] == list(sizes)
            assert stripped == [None] * 4
            assert len(node.loads) == 4


async def test_more_context_than_is_loaded_is_given_as_asked_for() -> None:
    async with a_fleet(ROOMY, scheduling={"context_protection": "strip"}) as fleet:
        for num_ctx in (2048, 8192):
            await fleet.post("/api/chat", chat(SMALL, options={"num_ctx": num_ctx}))
        assert [load.num_ctx for load in fleet.nodes[0].loads] == [2048, 8192]


@pytest.mark.parametrize("overrides", [False, True])
async def test_the_operators_keep_alive_goes_with_requests(overrides: bool) -> None:
    scheduling = {"keep_alive": "30m", "keep_alive_overrides": overrides}
    async with a_fleet(ONLY_SMALL, scheduling=scheduling) as fleet:
        for fields in ({}, {"keep_alive": "1m"}):
            await fleet.post("/api/chat", chat(SMALL, **fields))
        own = "30m" if overrides else "1m"
        assert [body["keep_alive"] for body in asked(fleet.nodes[0])] == ["30m", own]
        await fleet.post("/api/chat", {"model": SMALL, "keep_alive": 0})
        assert asked(fleet.nodes[0])[-1] == {"model": SMALL, "keep_alive": 0}


async def test_priorities_have_the_bounds_of_the_settings() -> None:
    async with a_fleet(ONLY_SMALL, queue={"default_priority": 2, "max_priority": 3}) as fleet:
        answer = await fleet.client.post(
            "/api/chat", json=chat(SMALL), headers={"X-Sollol-Priority": "9"}
        )
        assert answer.status_code == 200


async def test_rules_follow_the_settings_while_requests_wait() -> None:
    async with a_fleet(BOTH, BOTH) as fleet:
        gateway = fleet.running.gateway

        def reload(models: dict[str, Any], **of_a: Any) -> None:
            nodes = [
                {"url": node.url, "name": name} | (of_a if name == "a" else {})
                for name, node in zip("ab", fleet.nodes, strict=True)
            ]
            settings: Settings = make_settings(*nodes, models=models)
            gateway.reload(settings)

        reload({LARGE: {"pin": ["b"]}, "gpt": {"alias_of": SMALL}}, memory_gb=8, weight=3)
        answer = await fleet.post("/api/chat", chat(LARGE))
        assert answer.headers["x-sollol-node"] == "b"
        assert (await fleet.post("/api/chat", chat("gpt"))).status_code == 200
        view = gateway.registry.views()[0]
        assert (view.memory_bytes, view.weight) == (8 * 1024**3, 3.0)
        reload({}, deny_models=[LARGE, SMALL])
        assert (await fleet.post("/api/chat", chat(SMALL))).headers["x-sollol-node"] == "b"
        assert (await fleet.post("/api/chat", chat("gpt"))).status_code == 404
        reload({LARGE: {"pin": ["a"]}})
        assert (await fleet.post("/api/chat", chat(LARGE))).headers["x-sollol-node"] == "a"
        await wait_for(lambda: fleet.running.in_flight == 0)
