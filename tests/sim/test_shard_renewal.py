"""Models over several machines whose files in the store are pulled anew or deleted while they are loaded."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.sharding.facts import CHAT_TEMPLATE
from tests.gateways import wait_for
from tests.sharded import chat, sharding, shards
from tests.shards import GIB, ScriptedWorkers, Store

pytestmark = pytest.mark.sim


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.small("one")
    return store


def manifest_of(store: Store, name: str) -> Path:
    return store.root / "manifests/registry.ollama.ai/library" / name / "latest"


def pull_anew(store: Store, name: str, template: str = "") -> None:
    """Make a name stand for other weights, with more layers."""
    spec = dense(Size(layers=9))
    if template:
        spec = replace(spec, fields={**spec.fields, CHAT_TEMPLATE: template})
    file = write_gguf(store.root / "new.gguf", spec)
    told = json.loads(manifest_of(store, name).read_text())
    (weights,) = (each for each in told["layers"] if each["mediaType"].endswith(".model"))
    weights.update(store.weights("new", file))
    manifest_of(store, name).write_text(json.dumps(told))


async def test_a_model_that_was_pulled_anew_is_loaded_anew(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        (old,) = workers.made
        pull_anew(store, "one")
        assert (await chat(client, "one")).status_code == 200
        assert old.asked == 1
        (new,) = workers.running
        assert new is not old
        assert new.plan.facts.layer_count == old.plan.facts.layer_count + 1


async def test_an_idle_model_whose_files_changed_leaves(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        pull_anew(store, "one")
        await wait_for(lambda: not workers.running)
        assert not await shards(client)


async def test_requests_under_way_end_with_the_weights_they_began_with(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.hold_all = True
    async with sharding(store, workers) as (_, client):
        busy = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: bool(workers.made) and workers.made[0].asked == 1)
        pull_anew(store, "one", "{{ tools }}")
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        later = asyncio.ensure_future(chat(client, "one", tools=[tool]))
        while (await shards(client))["one:latest"]["state"] != "leaving":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        workers.hold_all = False
        workers.made[0].hold.set()
        assert [(await asked).status_code for asked in (busy, later)] == [200, 200]
        assert [made.asked for made in workers.made] == [1, 1]


async def test_a_deleted_model_is_not_found(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (running, client):
        assert (await chat(client, "one")).status_code == 200
        manifest_of(store, "one").unlink()
        asked = await chat(client, "one")
        assert (asked.status_code, asked.json()) == (404, {"error": "model 'one' not found"})
        await wait_for(lambda: not workers.running)
        assert (await client.get("/api/ps")).json() == {"models": []}
        await wait_for(lambda: not running.gateway.installed())
        embedded = await client.post("/api/embed", json={"model": "one", "input": "x"})
        assert embedded.status_code == 404
        assert embedded.json() == {"error": 'model "one" not found, try pulling it first'}


async def test_a_deleted_model_is_not_found_while_it_still_answers(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.hold_all = True
    async with (
        SimNode(SimConfig(models=(SimModel("other"),))) as node,
        sharding(store, workers, node.url) as (_, client),
    ):
        busy = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: bool(workers.made) and workers.made[0].asked == 1)
        manifest_of(store, "one").unlink()
        asked = await chat(client, "one")
        assert (asked.status_code, asked.json()) == (404, {"error": "model 'one' not found"})
        workers.made[0].hold.set()
        assert (await busy).status_code == 200
        await wait_for(lambda: not workers.running)


async def test_a_deleted_model_is_answered_by_nodes_that_have_it(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with (
        SimNode(SimConfig(models=(SimModel("one"),))) as node,
        sharding(store, workers, node.url, sharding={"models": "one"}) as (_, client),
    ):
        assert (await chat(client, "one")).headers["x-sollol-node"] == "shard:one:latest"
        manifest_of(store, "one").unlink()
        assert (await chat(client, "one")).headers["x-sollol-node"] == node.url[7:]
        await wait_for(lambda: not workers.running)


async def test_a_manifest_that_is_being_written_changes_nothing(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        manifest = manifest_of(store, "one")
        whole = manifest.read_text()
        manifest.write_text(whole[:40])  # Ollama writes it in place
        assert (await chat(client, "one")).status_code == 200
        manifest.write_text(whole)
        assert (await chat(client, "one")).status_code == 200
        assert len(workers.made) == 1


async def test_a_model_has_one_digest_wherever_it_is_shown(store: Store) -> None:
    async with sharding(store, ScriptedWorkers(w1=GIB)) as (running, client):
        await wait_for(lambda: bool(running.gateway.installed()))
        assert (await chat(client, "one")).status_code == 200
        (listed,) = (await client.get("/api/tags")).json()["models"]
        (held,) = (await client.get("/api/ps")).json()["models"]
        assert held["digest"] == listed["digest"]
        assert held["details"] == listed["details"]
        (known,) = (await client.get("/sollol/v1/models")).json()["models"]
        assert {known["digest"], *(node["digest"] for node in known["nodes"])} == {held["digest"]}


async def test_a_store_that_does_not_answer_holds_up_no_request(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    manifest, hanging = manifest_of(store, "one"), store.root / "hanging"
    text = manifest.read_text()
    os.mkfifo(hanging)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        manifest.unlink()
        manifest.symlink_to(hanging)
        try:
            answers = await asyncio.gather(*(chat(client, "one") for _ in range(40)))
            assert {answer.status_code for answer in answers} == {200}
        finally:
            manifest.unlink()
            manifest.write_text(text)
            os.close(os.open(hanging, os.O_RDWR))  # lets those go that have opened it
