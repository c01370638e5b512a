"""One name with several digests, and one digest with several names, over real nodes."""

import asyncio
from typing import Any

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from tests.fleets import Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

X, Y = "1" * 64, "2" * 64
NAME = "llama3.2:3b"
WITH_X = SimConfig(models=(SimModel(NAME, digest=X),), slots=2)
WITH_Y = SimConfig(models=(SimModel(NAME, digest=Y, context_length=4096),), slots=2)
ALIASED = (SimModel(NAME, digest=X), SimModel("alias:1b", digest=X), SimModel("other", digest=Y))


def chat(model: str = NAME, tokens: int = 2) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": model, "messages": messages, "options": {"num_predict": tokens}}


async def node_of(fleet: Fleet, model: str = NAME) -> str:
    answer = await fleet.post("/api/chat", chat(model))
    assert answer.status_code == 200
    return answer.headers["x-sollol-node"]


async def own(fleet: Fleet, what: str) -> list[dict[str, Any]]:
    answer = await fleet.client.get(f"/sollol/v1/{what}")
    found: list[dict[str, Any]] = answer.json()[what]
    return found


async def test_a_conflict_is_settled_by_the_majority_and_visible() -> None:
    async with a_fleet(WITH_X, WITH_Y, WITH_X) as fleet:
        assert {await node_of(fleet) for _ in range(6)} <= {"a", "c"}
        (tag,) = (await fleet.client.get("/api/tags")).json()["models"]
        assert tag["digest"] == X
        (model,) = await own(fleet, "models")
        nodes = model.pop("nodes")
        assert model == {
            "name": NAME,
            "key": f"registry.ollama.ai/library/{NAME}",
            "digest": X,
            "size_bytes": 2 * 1024**3,
            "context_length": 8192,
            "capabilities": ["completion"],
            "conflict": True,
        }
        assert [(n["id"], n["digest"], n["state"]) for n in nodes] == [
            ("a", X, "healthy"), ("b", Y, "healthy"), ("c", X, "healthy"),
        ]  # fmt: skip
        assert not nodes[1]["is_resident"]
        assert [node["outvoted"] for node in await own(fleet, "nodes")] == [[], [NAME], []]


async def test_without_a_node_with_the_chosen_digest_the_others_answer() -> None:
    async with a_fleet(WITH_X, WITH_Y, WITH_X) as fleet:
        for node in (fleet.nodes[0], fleet.nodes[2]):
            await node.stop_listening()
            node.reset_connections()
        await fleet.running.wait_healthy(1)
        assert await node_of(fleet) == "b"
        (tag,) = (await fleet.client.get("/api/tags")).json()["models"]
        assert tag["digest"] == Y
        for node in (fleet.nodes[0], fleet.nodes[2]):
            await node.start_listening()
        await fleet.running.wait_healthy(3)
        assert await node_of(fleet) in ("a", "c")


async def test_a_pull_of_the_chosen_digest_ends_a_conflict() -> None:
    registry = (SimModel(NAME, digest=X),)
    async with a_fleet(WITH_X, SimConfig(models=WITH_Y.models, registry=registry)) as fleet:
        assert [model["conflict"] for model in await own(fleet, "models")] == [True]
        await fleet.post("/api/pull", {"model": NAME}, nodes="b")
        assert [model["conflict"] for model in await own(fleet, "models")] == [False]
        assert [node["outvoted"] for node in await own(fleet, "nodes")] == [[], []]


async def test_two_names_of_one_digest_share_the_slots_of_a_node() -> None:
    async with a_fleet(SimConfig(models=ALIASED, chunk_interval_s=0.01)) as fleet:
        long = asyncio.ensure_future(fleet.post("/api/chat", chat(NAME, 30)))
        await wait_for(lambda: fleet.running.in_flight == 1)
        other = asyncio.ensure_future(fleet.post("/api/chat", chat("alias:1b")))
        await wait_for(lambda: fleet.running.queued == 1)
        assert await node_of(fleet, "other") == "a"
        assert (await other).headers["x-sollol-queue-wait"] != "0.000"
        assert [answer.status_code for answer in (await long, await other)] == [200, 200]
        assert fleet.nodes[0].max_in_flight_per_model == {NAME: 1, "alias:1b": 1, "other": 1}


async def test_a_copied_name_is_in_memory_with_the_first() -> None:
    async with a_fleet(*[SimConfig(models=ALIASED[:1], slots=9)] * 3) as fleet:
        warm = await node_of(fleet)
        await fleet.post("/api/copy", {"source": NAME, "destination": "copied"})
        models = {model["name"]: model["nodes"] for model in await own(fleet, "models")}
        for name in (NAME, "copied:latest"):
            assert [node["id"] for node in models[name] if node["is_resident"]] == [warm]
        assert {await node_of(fleet, "copied") for _ in range(3)} == {warm}
        (loaded,) = (await fleet.client.get("/api/ps")).json()["models"]
        assert loaded["name"] == NAME


async def test_ps_has_an_entry_for_each_digest() -> None:
    async with a_fleet(WITH_X, WITH_Y, WITH_X) as fleet:
        for node in fleet.nodes:
            async with httpx.AsyncClient(base_url=node.url) as direct:
                await direct.post("/api/chat", json={"model": NAME, "keep_alive": "1h"})
        gateway = fleet.running.gateway
        await gateway.fleet.refresh(gateway.registry.nodes())
        loaded = (await fleet.client.get("/api/ps")).json()["models"]
        assert sorted(entry["digest"] for entry in loaded) == [X, Y]
        by_digest = {entry["digest"]: entry["size"] for entry in loaded}
        assert by_digest[X] == 2 * by_digest[Y]


async def test_lists_are_newest_first_and_keep_the_models_of_a_dead_node() -> None:
    first, second = SimModel("first:1b"), SimModel("second:1b")
    async with a_fleet(SimConfig(models=(first, second)), SimConfig(models=(second,))) as fleet:
        await fleet.post("/api/copy", {"source": "second:1b", "destination": "newest"}, nodes="b")
        dead = fleet.nodes[0]
        await dead.stop_listening()
        dead.reset_connections()
        await fleet.running.wait_healthy(1)
        tags = (await fleet.client.get("/api/tags")).json()["models"]
        times = [tag["modified_at"] for tag in tags]
        assert times == sorted(times, reverse=True)
        assert tags[0]["name"] == "newest:latest"
        listed = (await fleet.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == [tag["name"] for tag in tags]
        refused = await fleet.post("/api/chat", chat("first:1b"))
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert await node_of(fleet, "second:1b") == "b"
