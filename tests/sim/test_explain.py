"""Decisions that explain themselves, over simulated nodes and real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault
from tests.fleets import MODEL, Fleet, a_fleet
from tests.gateways import wait_for
from tests.watched import watched

pytestmark = pytest.mark.sim

ONE = SimConfig(models=(MODEL,))
PATH = "/sollol/v1/decisions"


def chat(text: str = "Why is the sky blue?", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL.name, "messages": [{"role": "user", "content": text}], **fields}


async def get(fleet: Fleet, path: str, status: int = 200) -> Any:
    answer = await fleet.client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def decisions(fleet: Fleet, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await get(fleet, f"{PATH}{query}"))["decisions"]
    return found


async def ended(fleet: Fleet, count: int) -> list[dict[str, Any]]:
    """Return all entries once ``count`` have ended: a client has its answer before that is noted."""
    while True:
        found = await decisions(fleet)
        if sum(entry["duration_s"] is not None for entry in found) >= count:
            return found


@contextlib.asynccontextmanager
async def occupied(fleet: Fleet, count: int = 1) -> AsyncIterator[None]:
    """Keep slots taken for the length of a block."""
    for node in fleet.nodes:
        node.set_fault(Fault("hang_before_head", path="/api/chat", times=1))
    askers = [
        asyncio.ensure_future(fleet.client.post("/api/chat", json=chat())) for _ in range(count)
    ]
    await wait_for(lambda: fleet.running.in_flight == count)
    try:
        yield
    finally:
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)


async def test_a_request_tells_what_was_decided_predicted_and_measured() -> None:
    async with a_fleet(ONE, ONE) as fleet:
        answer = await fleet.client.post("/api/chat", json=chat(), headers={"X-Request-Id": "mine"})
        (entry,) = await ended(fleet, 1)
        assert (await get(fleet, f"{PATH}/mine"))["decisions"] == [entry]
        assert (await get(fleet, f"{PATH}/{entry['id']}"))["decisions"] == [entry]
    (attempt,) = entry["attempts"]
    decision = attempt["decision"]
    node = answer.headers["x-sollol-node"]
    assert (entry["request_id"], entry["outcome"], entry["status"]) == ("mine", "ok", 200)
    assert entry["node"] == attempt["node"] == decision["node"] == node
    assert (decision["rule"], decision["considered"]) == ("cost", 2)
    assert decision["reason"].startswith(f"{node} has the answer soonest")
    assert sorted(option["node"] for option in decision["options"]) == ["a", "b"]
    (chosen,) = (option for option in decision["options"] if option["chosen"])
    terms = chosen["terms"]
    parts = ("load_s", "prefill_s", "decode_s")
    assert attempt["predicted_s"] == pytest.approx(sum(terms[part] for part in parts))
    assert float(answer.headers["x-sollol-predicted-seconds"]) == pytest.approx(
        attempt["predicted_s"], abs=0.001
    )
    assert attempt["loads"]
    assert attempt["measured"]["load_s"] > 0
    assert 0 < attempt["measured"]["total_s"] <= entry["duration_s"]
    assert attempt["measured"]["output_tokens"] > 0
    assert entry["complexity"] == {"size": "light", "needs": []}
    assert entry["waiting"] is None


async def test_requests_that_share_an_id_are_all_shown() -> None:
    async with a_fleet(ONE) as fleet:
        for _ in range(2):
            await fleet.client.post("/api/chat", json=chat(), headers={"X-Request-Id": "same"})
        newest, oldest = await ended(fleet, 2)
        assert (await get(fleet, f"{PATH}/same"))["decisions"] == [newest, oldest]
        assert newest["number"] > oldest["number"]
        missing = await get(fleet, f"{PATH}/nobodys", 404)
        assert missing["code"] == "decision_not_found"


async def test_the_list_is_filtered_and_paged() -> None:
    async with a_fleet(ONE) as fleet:
        for model in (MODEL.name, "absent", MODEL.name):
            await fleet.client.post("/api/chat", json={**chat(), "model": model})
        third, second, first = await ended(fleet, 3)
        assert await decisions(fleet, f"?model={MODEL.name}") == [third, first]
        assert await decisions(fleet, "?outcome=model_not_found") == [second]
        assert await decisions(fleet, "?node=a&outcome=ok") == [third, first]
        assert await decisions(fleet, "?node=z") == []
        assert await decisions(fleet, "?caller=127.0.0.1") == [third, second, first]
        assert await decisions(fleet, "?caller=10.0.0.1") == []
        page = await get(fleet, f"{PATH}?limit=2")
        assert page == {"decisions": [third, second], "next": second["number"]}
        rest = await get(fleet, f"{PATH}?limit=2&cursor={page['next']}")
        assert rest == {"decisions": [first], "next": None}
        assert (await get(fleet, f"{PATH}?limit=0", 422))["code"] == "invalid_request"


async def test_a_failed_attempt_is_told_and_counts_against_its_node() -> None:
    async with a_fleet(ONE, ONE) as fleet:
        watch = watched(fleet.running)
        for node in fleet.nodes:
            node.set_fault(Fault("close_before_head", path="/api/chat", times=1))
        await fleet.client.post("/api/chat", json=chat())
        (entry,) = await ended(fleet, 1)
        assert watch.faults[:2] == [True, True]
        assert {a["node"] for a in entry["attempts"]} == {"a", "b"}
        assert {a["error"] for a in entry["attempts"]} == {"upstream_cut"}
        estimates = (await get(fleet, "/sollol/v1/estimates"))["nodes"]
        assert all(node["failure_share"] > 0 for node in estimates)


async def test_a_missing_model_is_no_fault_of_the_node() -> None:
    async with a_fleet(ONE) as fleet:
        watch = watched(fleet.running)
        fleet.nodes[0].set_fault(Fault("status", path="/api/chat", status=404, times=1))
        await fleet.client.post("/api/chat", json=chat())
        (entry,) = await ended(fleet, 1)
        assert entry["attempts"][0]["error"] == "missing_on_node"
        assert watch.faults == [False]


async def test_the_end_of_a_load_is_told_once() -> None:
    async with a_fleet(ONE) as fleet:
        watch = watched(fleet.running)
        for _ in range(2):
            await fleet.client.post("/api/chat", json=chat())
        first, second = (e["attempts"][0] for e in reversed(await ended(fleet, 2)))
        assert (first["loads"], second["loads"]) == (True, False)
        assert len(watch.loads) == 1


async def test_who_waits_and_who_runs_is_shown() -> None:
    async with a_fleet(ONE) as fleet, occupied(fleet):
        headers = {"X-Request-Id": "patient", "X-Sollol-Priority": "8"}
        asking = asyncio.ensure_future(fleet.client.post("/api/chat", json=chat(), headers=headers))
        await wait_for(lambda: fleet.running.queued == 1)
        queue = await get(fleet, "/sollol/v1/queue")
        (waiting,) = queue["waiting"]
        assert (queue["length"], queue["max_length"]) == (1, 512)
        assert (waiting["request_id"], waiting["position"], waiting["priority"]) == (
            "patient",
            1,
            8,
        )
        assert (waiting["model"], waiting["level"] >= 8) == (MODEL.name, True)
        assert waiting["predicted_wait_s"] > 0
        assert (waiting["node_id"], waiting["why"]) == ("a", "its slots are taken or spoken for")
        (entry,) = (await get(fleet, f"{PATH}/patient"))["decisions"]
        assert (entry["outcome"], entry["duration_s"], entry["id"]) == (
            "waiting",
            None,
            waiting["id"],
        )
        assert entry["waiting"]["position"] == 1
        (running,) = await decisions(fleet, "?outcome=running")
        assert (running["node"], running["waiting"]) == ("a", None)
        assert await decisions(fleet, "?outcome=waiting") != []
        asking.cancel()
        await wait_for(lambda: fleet.running.queued == 0)
        (entry,) = await decisions(fleet, "?outcome=client_disconnected&model=" + MODEL.name)
        assert entry["request_id"] == "patient"


async def test_a_full_queue_tells_the_predicted_wait() -> None:
    async with a_fleet(ONE, queue={"max_length": 0}) as fleet, occupied(fleet):
        preview = await fleet.post("/sollol/v1/route", {"path": "/api/chat", "body": chat()})
        assert preview.json()["would"] == "refuse"
        answer = await fleet.client.post("/api/chat", json=chat())
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "the predicted wait is" in answer.json()["error"]


async def test_a_journal_of_length_0_keeps_nothing_that_has_ended() -> None:
    async with a_fleet(ONE, scheduling={"journal_length": 0}) as fleet:
        async with occupied(fleet):
            (entry,) = await decisions(fleet)
            assert entry["outcome"] == "running"
        await wait_for(lambda: fleet.running.in_flight == 0)
        while await decisions(fleet):
            pass


# --- what would be decided -----------------------------------------------------------------------


async def route(fleet: Fleet, body: Any, status: int = 200, path: str = "/api/chat") -> Any:
    answer = await fleet.post("/sollol/v1/route", {"path": path, "body": body})
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_preview_says_what_then_happens_and_does_nothing() -> None:
    async with a_fleet(ONE, ONE) as fleet:
        await fleet.client.post("/api/chat", json=chat())
        await ended(fleet, 1)
        body = chat(priority=7, options={"num_predict": 5}, format="json", tools=[])
        told = await route(fleet, body)
        assert len(await decisions(fleet)) == 1
        assert "".join(fleet.asked("/api/chat")) in ("a", "b")
        answer = await fleet.client.post("/api/chat", json=body)
        assert answer.headers["x-sollol-node"] == told["decision"]["node"]
    assert (told["would"], told["priority"], told["takes_slot"]) == ("run", 7, True)
    assert told["predicted_wait_s"] == 0
    assert told["predicted_s"] > 0
    assert told["ask"]["max_output_tokens"] == 5
    assert told["ask"]["prompt_bytes"] >= len("Why is the sky blue?")
    assert told["ask"]["conversation"] != ""
    assert told["complexity"] == {"size": "light", "needs": ["format"]}
    assert told["decision"]["reason"]


async def test_a_preview_says_that_it_would_wait_and_for_how_long() -> None:
    async with a_fleet(ONE) as fleet, occupied(fleet):
        told = await route(fleet, chat())
        assert (told["would"], told["decision"]["node"]) == ("wait", "")
        assert told["predicted_s"] > told["predicted_wait_s"] > 0
        assert told["decision"]["rule"] == "wait"


async def test_a_preview_of_what_takes_no_slot_runs_though_all_are_taken() -> None:
    async with a_fleet(ONE) as fleet, occupied(fleet):
        told = await route(fleet, {"model": MODEL.name}, path="/api/show")
        assert (told["would"], told["takes_slot"]) == ("run", False)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/chat", chat(model="absent"), 404, "model_not_found"),
        ("/api/chat", chat(model=3), 400, "invalid_request"),
        ("/health", chat(), 400, "invalid_request"),
        ("/v1/audio/transcriptions", chat(), 400, "invalid_request"),
    ],
)
async def test_what_cannot_be_previewed_is_refused(
    path: str, body: Any, status: int, code: str
) -> None:
    async with a_fleet(ONE) as fleet:
        assert (await route(fleet, body, status, path))["code"] == code


async def test_a_preview_of_a_long_prompt_is_in_the_class_of_long_contexts() -> None:
    async with a_fleet(ONE) as fleet:
        told = await route(fleet, chat("word " * 20_000))
        assert told["complexity"]["size"] == "long-context"
        assert told["decision"]["prompt_tokens"] > 16_000


# --- estimates and metrics -----------------------------------------------------------------------


async def test_estimates_show_what_was_measured() -> None:
    async with a_fleet(ONE) as fleet:
        (before,) = (await get(fleet, "/sollol/v1/estimates"))["nodes"]
        assert before["models"][0]["decode_count"] == 0
        await fleet.client.post("/api/chat", json=chat(options={"num_predict": 64}))
        await ended(fleet, 1)
        (node,) = (await get(fleet, "/sollol/v1/estimates"))["nodes"]
    (model,) = node["models"]
    assert node["node_id"] == "a"
    assert model["models"] == ["llama3.2:3b"]
    assert model["is_resident"]
    assert (model["load_count"], model["decode_count"]) == (1, 1)
    assert model["load_s"] > 0
    assert model["decode_tokens_per_s"] == pytest.approx(50, rel=0.5)
    assert 0 <= model["affinity_trust"] <= 1


async def test_metrics_count_decisions_loads_waits_and_predictions() -> None:
    async with a_fleet(ONE) as fleet:
        await fleet.client.post("/api/chat", json=chat(), headers={"X-Sollol-Priority": "3"})
        await ended(fleet, 1)
        shown = (await fleet.client.get("/metrics")).text
        assert 'sollol_decisions_total{rule="cost"} 1.0' in shown
        assert 'sollol_model_loads_total{node="a"} 1.0' in shown
        assert 'sollol_queue_wait_seconds_count{priority="3",task="chat"} 1.0' in shown
        assert 'sollol_prediction_ratio_count{task="chat"} 1.0' in shown
        await fleet.client.delete("/sollol/v1/nodes/a")
        assert "sollol_model_loads_total{" not in (await fleet.client.get("/metrics")).text


async def test_the_routes_are_described() -> None:
    async with a_fleet(ONE) as fleet:
        paths = (await get(fleet, "/openapi.json"))["paths"]
    own = ("decisions", "decisions/{request_id}", "route", "queue", "estimates")
    assert {f"/sollol/v1/{name}" for name in own} <= set(paths)


async def test_nothing_of_a_prompt_or_an_answer_is_kept() -> None:
    async with a_fleet(ONE) as fleet:
        answer: httpx.Response = await fleet.client.post("/api/chat", json=chat("canary-secret"))
        await ended(fleet, 1)
        shown = (await fleet.client.get(PATH)).text
    assert "canary-secret" not in shown
    assert answer.status_code == 200
