"""Models over several machines: loaded when asked for, one node like any other, gone when idle or lost."""

import asyncio
import contextlib
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from sollol.bench.gguf_files import write_gguf
from sollol.bench.model_kinds import Size, dense
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.cli.main import main
from sollol.errors import CoordinatorFailed
from sollol.gateway.shard_placing import LOOK_S
from sollol.sharding.loading import LoadProgress
from sollol.sharding.memory import MIB
from tests.gateways import running_gateway, wait_for
from tests.sharded import chat, sharding, shards, users_of, whole_bytes
from tests.shards import GIB, ScriptedWorkers, Store

pytestmark = pytest.mark.sim


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    store.small("one", "two")
    return store


async def test_first_requests_share_one_load(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB, w2=GIB)
    workers.may_load.clear()
    async with sharding(store, workers) as (running, client):
        asked = [asyncio.ensure_future(chat(client, "one")) for _ in range(5)]
        await wait_for(lambda: users_of(running) == [5] and bool(workers.made))
        (waiting,) = (await shards(client)).values()
        assert (waiting["state"], waiting["requests"]) == ("loading", 5)
        workers.may_load.set()
        answers = await asyncio.gather(*asked)
        assert [a.status_code for a in answers] == [200] * 5
        assert answers[0].json()["message"]["content"] == "hello"
        assert answers[0].headers["x-sollol-node"] == "shard:one:latest"
        assert len(workers.made) == 1
        (shard,) = (await shards(client)).values()
        assert (shard["state"], shard["progress"], shard["requests"]) == ("ready", 1.0, 0)
        assert shard["workers"][0]["weight_bytes"] > MIB
        (held,) = (await client.get("/api/ps")).json()["models"]
        assert held["name"] == "one:latest"
        assert held["size_vram"] == shard["workers"][0]["weight_bytes"]
        assert held["size"] - held["size_vram"] == 3 * MIB
        leaves = [datetime.fromisoformat(told["expires_at"]) for told in (held, shard)]
        assert abs(leaves[0] - leaves[1]) < timedelta(minutes=1)


async def test_models_of_the_store_are_listed_once(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with (
        SimNode(SimConfig(models=(SimModel("two"),))) as node,
        sharding(store, workers, node.url) as (running, client),
    ):
        await wait_for(lambda: len(running.gateway.installed()) == 2)
        await chat(client, "one")
        tags = (await client.get("/api/tags")).json()["models"]
        assert sorted(model["name"] for model in tags) == ["one:latest", "two:latest"]
        listed = (await client.get("/v1/models")).json()["data"]
        assert sorted(model["id"] for model in listed) == ["one:latest", "two:latest"]
        assert (await client.get("/v1/models/one")).status_code == 200
        assert (await chat(client, "two")).headers["x-sollol-node"] == node.url[7:]
        shown = await client.post("/api/show", json={"model": "one"})
        assert shown.json()["model_info"]["general.architecture"] == "llama"
    assert len(workers.made) == 1


async def test_a_shown_model_is_not_loaded(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await client.post("/api/show", json={"model": "one"})).status_code == 200
        missing = await client.post("/api/show", json={"model": "nope"})
        assert missing.status_code == 404
        (store.root / "blobs").rename(store.root / "elsewhere")
        broken = await client.post("/api/show", json={"model": "two"})
        assert broken.status_code == 500
        assert "Run: ollama pull two:latest" in broken.json()["error"]
    assert not workers.made


async def test_a_model_says_what_requests_do_not(store: Store, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "told.gguf", dense(Size(layers=8)))
    examples = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    parameters = '{"stop": ["<end>"], "top_k": 3}'
    store.add(
        "told",
        file,
        license="MIT",
        system="Be brief.",
        messages=json.dumps(examples),
        params=parameters,
    )
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "told", options={"top_k": 5})).status_code == 200
        asked = {"model": "told", "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post("/v1/chat/completions", json=asked)).status_code == 200
        bodies = workers.made[0].bodies
        for body in bodies:
            said = [message["content"] for message in body["messages"]]
            assert said == ["Be brief.", "2+2?", "4", "hi"]
            assert body["stop"] == ["<end>"]
        assert [body.get("top_k") for body in bodies] == [5, None]
        told = (await client.post("/api/show", json={"model": "told"})).json()
        assert (told["system"], told["messages"]) == ("Be brief.", examples)
        assert told["license"] == "MIT"


async def test_what_is_shown_of_a_damaged_file_names_the_model(store: Store) -> None:
    noise = store.root / "noise.gguf"
    noise.write_bytes(b"noise")
    store.add("noise", noise)
    async with sharding(store, ScriptedWorkers(w1=GIB)) as (_, client):
        shown = await client.post("/api/show", json={"model": "noise"})
    assert shown.status_code == 500
    assert shown.json()["error"].startswith("noise:latest: ")


async def test_a_fault_of_ours_ends_one_model_and_says_so(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.failures.append(ValueError("x"))
    async with sharding(store, workers) as (_, client):
        answer = await chat(client, "one")
        assert (answer.status_code, "by a fault of SOLLOL" in answer.json()["error"]) == (500, True)
        assert (await chat(client, "two")).status_code == 200
        assert (await chat(client, "one")).status_code == 200


async def test_load_unload_and_stop(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        loaded = await client.post("/api/generate", json={"model": "one"})
        assert loaded.json()["done_reason"] == "load"
        assert len(workers.running) == 1
        gone = await client.post("/api/generate", json={"model": "one", "keep_alive": 0})
        assert gone.json()["done_reason"] == "unload"
        await wait_for(lambda: not workers.running)
        again = await client.post("/api/chat", json={"model": "one", "keep_alive": "0s"})
        assert again.json()["done_reason"] == "unload"
        assert len(workers.made) == 1
        await chat(client, "one")
        stopped = await client.delete("/sollol/v1/shards/one")
        assert stopped.json() == {"model": "one:latest", "requests": 0}
        await wait_for(lambda: not workers.running)
        assert (await client.delete("/sollol/v1/shards/one")).status_code == 404
        assert (await client.delete("/sollol/v1/nodes/shard:one:latest")).status_code == 404


async def test_an_idle_model_leaves_when_its_time_is_over(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers, sharding={"keep_alive_s": 0.5}) as (_, client):
        await chat(client, "one", keep_alive=-1)
        (kept,) = (await shards(client)).values()
        assert kept["expires_at"].startswith("2318")
        await chat(client, "one")
        await wait_for(lambda: not workers.running)
        await chat(client, "one", keep_alive=0)
        await wait_for(lambda: not workers.running)
    assert len(workers.made) == 2


async def test_a_lost_model_is_loaded_again_for_who_waits(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB, w2=GIB)
    async with sharding(store, workers) as (_, client):
        await chat(client, "one")
        first = workers.made[0]
        first.hold.clear()
        asked = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: first.asked == 2)
        lost = first.plan.shares[0].worker.name
        workers.unusable[lost] = "no RPC server answers"
        await first.die(f"worker {lost} was lost")
        assert (await asked).status_code == 200
        assert workers.made[1].plan.shares[0].worker.name != lost
        metrics = (await client.get("/metrics")).text
        assert "sollol_shard_losses_total 1.0" in metrics
        assert 'sollol_shards{state="ready"} 1.0' in metrics


async def test_workers_that_come_back_are_waited_for_though_nobody_asks(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        await chat(client, "one")
        (address,) = workers.memories
        workers.unusable[address] = "no RPC server answers"
        await workers.made[0].die(f"worker {address} was lost")
        while (await shards(client))["one:latest"]["state"] != "planning":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * LOOK_S)  # it is looked for in vain, more than once
        workers.unusable.clear()
        await wait_for(lambda: len(workers.running) == 1)
    assert len(workers.made) == 2


async def test_a_model_that_nobody_asks_for_takes_no_workers_from_others(store: Store) -> None:
    size = whole_bytes(store) + MIB
    workers = ScriptedWorkers(w1=size, w2=size)
    async with sharding(store, workers) as (_, client):
        await chat(client, "one")
        await chat(client, "two")
        one, two = workers.made
        two.hold.clear()
        busy = asyncio.ensure_future(chat(client, "two"))
        await wait_for(lambda: two.asked == 2)
        await client.delete("/sollol/v1/shards/two")
        with capture_logs() as logs:
            await one.die("it aborted")
            while "one:latest" in await shards(client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        told = [(line["event"], line["log_level"]) for line in logs if "model" in line]
        assert told == [("shard_lost", "warning"), ("shard_dropped", "info")]
        two.hold.set()
        assert (await busy).status_code == 200


async def test_a_request_that_ends_it_twice_is_not_sent_again(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        workers.hold_all = True
        asked = asyncio.ensure_future(chat(client, "one"))
        for count in (1, 2):
            await wait_for(lambda count=count: len(workers.made) == count)  # type: ignore[misc]
            made = workers.made[-1]
            await wait_for(lambda made=made: made.asked == 1)  # type: ignore[misc]
            await made.die("it aborted")
        answer = await asked
        assert answer.status_code == 502
        assert answer.json()["error"] == (
            "one:latest was lost twice while it answered this, at last as it aborted"
        )
        workers.hold_all = False
        assert (await chat(client, "one")).status_code == 200


async def test_one_that_is_lost_again_and_again_is_given_up(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    async with sharding(store, workers) as (_, client):
        await chat(client, "one")
        workers.failures += [CoordinatorFailed("no")]
        await workers.made[-1].die("it aborted")
        await wait_for(lambda: len(workers.made) == 2)
        answer = await chat(client, "one")
        assert (answer.status_code, answer.json()["error"]) == (502, "one:latest: no")
        (failed,) = (await shards(client)).values()
        assert failed["state"] == "failed"
        assert failed["retry_after_s"] > 0


async def test_a_failed_load_is_tried_on_other_workers_only(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.failures.append(CoordinatorFailed("llama-server ended: out of memory"))
    async with sharding(store, workers) as (_, client):
        answer = await chat(client, "one")
        assert answer.status_code == 502
        assert "out of memory" in answer.json()["error"]
        again = await chat(client, "one")
        assert (again.status_code, len(workers.made)) == (502, 1)
        assert int(again.headers["retry-after"]) >= 1
        await asyncio.sleep(1.1)
        assert (await chat(client, "one")).status_code == 200


async def test_two_models_have_workers_of_their_own(store: Store) -> None:
    size = whole_bytes(store) + MIB
    workers = ScriptedWorkers(w1=size, w2=size)
    async with sharding(store, workers) as (_, client):
        assert (await chat(client, "one")).status_code == 200
        assert (await chat(client, "two")).status_code == 200
        used = [made.plan.shares[0].worker.name for made in workers.running]
        assert len(set(used)) == 2


async def test_an_idle_model_makes_room(store: Store) -> None:
    workers = ScriptedWorkers(w1=whole_bytes(store) + MIB)
    async with sharding(store, workers) as (_, client):
        for model in ("one", "two", "one"):
            assert (await chat(client, model)).status_code == 200
            assert [made.name for made in workers.running] == [f"{model}:latest"]


def shown_by(*arguments: str) -> str:
    """Return what ``sollol shard`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        main(["shard", *arguments])
    return out.getvalue()


async def test_a_busy_model_is_waited_for(store: Store) -> None:
    workers = ScriptedWorkers(w1=whole_bytes(store) + MIB)
    async with sharding(store, workers) as (running, client):
        await chat(client, "one")
        workers.made[0].hold.clear()
        busy = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: workers.made[0].asked == 2)
        waits = asyncio.ensure_future(chat(client, "two"))
        while (await shards(client))["one:latest"]["state"] != "leaving":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await shards(client))["one:latest"]["expires_at"] == ""
        (held,) = (await client.get("/api/ps")).json()["models"]
        assert datetime.fromisoformat(held["expires_at"]) <= datetime.now(UTC)
        told = await asyncio.to_thread(shown_by, "ps", "--url", running.url)
        assert re.search(r"^one:latest +leaving +1 .* its requests end$", told, re.MULTILINE)
        late = asyncio.ensure_future(chat(client, "one"))
        await asyncio.sleep(0.05)
        workers.made[0].hold.set()
        answers = await asyncio.gather(busy, waits, late)
        assert [a.status_code for a in answers] == [200] * 3
        assert [made.name for made in workers.made] == ["one:latest", "two:latest", "one:latest"]


async def test_a_wait_for_workers_ends(store: Store) -> None:
    workers = ScriptedWorkers(w1=whole_bytes(store) + MIB)
    async with sharding(store, workers, queue={"timeout_s": 0.5}) as (_, client):
        await chat(client, "one")
        workers.made[0].hold.clear()
        busy = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: workers.made[0].asked == 2)
        waits = await chat(client, "two")
        assert waits.status_code == 504
        late = await chat(client, "one")
        assert late.status_code == 504
        workers.made[0].hold.set()
        assert (await busy).status_code == 200


async def test_what_does_not_fit_is_said_with_the_workers_that_are_missing(store: Store) -> None:
    workers = ScriptedWorkers(w1=whole_bytes(store) // 4, w2=GIB)
    workers.unusable["10.0.0.2:50052"] = "no RPC server answers there"
    async with sharding(store, workers) as (_, client):
        answer = await client.post(
            "/v1/chat/completions",
            json={"model": "one", "messages": [{"role": "user", "content": "x"}]},
        )
        assert answer.status_code == 503
        assert "no RPC server answers" in answer.json()["error"]["message"]
        (failed,) = (await shards(client)).values()
        assert (failed["state"], failed["retry_after_s"]) == ("failed", None)
        assert "no RPC server answers" in failed["error"]
        workers.unusable["10.0.0.1:50052"] = "it timed out"
        answer = await chat(client, "one")
        assert (answer.status_code, "it timed out" in answer.json()["error"]) == (502, True)
    assert not workers.made


async def test_nodes_that_lack_the_memory_are_not_asked(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    models = (SimModel("one", size_gib=8), SimModel("two", size_gib=1))
    async with SimNode(SimConfig(models=models)) as node:
        listed = {"url": node.url, "memory_gb": 4}
        async with sharding(store, workers, listed) as (running, client):
            assert (await chat(client, "one")).headers["x-sollol-node"] == "shard:one:latest"
            assert (await chat(client, "two")).headers["x-sollol-node"] == node.url[7:]
            changes = listed | {"memory_gb": 16}
            reloaded = running.gateway.settings.model_validate(
                running.gateway.settings.model_dump() | {"nodes": [changes]}
            )
            await client.delete("/sollol/v1/shards/one")
            await wait_for(lambda: not workers.running)
            running.gateway.reload(reloaded)
            assert (await chat(client, "one")).headers["x-sollol-node"] == node.url[7:]
    assert len(workers.made) == 1


async def test_listed_models_run_over_workers_though_nodes_have_them(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    models = (SimModel("one"), SimModel("other"))
    async with (
        SimNode(SimConfig(models=models)) as node,
        sharding(store, workers, node.url, sharding={"models": "one,o*er"}) as (_, client),
    ):
        assert (await chat(client, "one")).headers["x-sollol-node"] == "shard:one:latest"
        # Its files are not here, so that only the node can run it.
        assert (await chat(client, "other")).headers["x-sollol-node"] == node.url[7:]


async def test_a_deadline_ends_the_wait_but_not_the_load(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.may_load.clear()
    async with sharding(store, workers) as (_, client):
        late = await client.post(
            "/api/generate",
            json={"model": "one", "prompt": "x", "stream": False},
            headers={"x-sollol-deadline": "0.1"},
        )
        assert late.status_code == 504
        workers.may_load.set()
        await wait_for(lambda: bool(workers.running))
        assert (await chat(client, "one")).status_code == 200
    assert len(workers.made) == 1


async def test_a_stop_in_the_middle_of_a_load_leaves_nothing(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.may_load.clear()
    async with sharding(store, workers) as (running, client):
        asked = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: bool(workers.made))
        running.gateway.stop()
        assert (await asked).status_code == 503
    assert workers.made[0].is_stopped


async def test_without_workers_there_are_none() -> None:
    async with running_gateway() as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.get("/sollol/v1/shards")).json() == {
                "enabled": False,
                "shards": [],
            }
            assert (await client.delete("/sollol/v1/shards/x")).status_code == 404


async def test_workers_that_hold_a_model_are_busy_and_well(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = ScriptedWorkers()
    workers.memories["127.0.0.1:1"] = GIB
    arguments = ["shard", "workers", "--set", "sharding.workers=127.0.0.1:1=1"]
    async with sharding(store, workers) as (running, client):
        assert (await chat(client, "one")).status_code == 200
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, [*arguments, "--url", running.url])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert re.search(r"^127\.0\.0\.1:1 +busy +", out, re.MULTILINE)
    assert "\n127.0.0.1:1: it holds a part of one:latest" in out


async def previewed(client: httpx.AsyncClient, path: str = "/api/chat") -> dict[str, Any]:
    body = {"model": "one", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client.post("/sollol/v1/route", json={"path": path, "body": body})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_what_would_be_done_is_told_of_a_model_that_is_not_loaded(store: Store) -> None:
    workers = ScriptedWorkers(w1=GIB)
    workers.may_load.clear()
    async with sharding(store, workers) as (_, client):
        told = await previewed(client)
        assert (told["would"], told["predicted_s"], told["complexity"]) == ("load", None, None)
        assert "would first be loaded over workers" in told["decision"]["reason"]
        assert (await previewed(client, "/api/show"))["would"] == "run"
        assert not workers.made
        asked = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: bool(workers.made))
        assert "is being loaded" in (await previewed(client))["decision"]["reason"]
        workers.failures.append(CoordinatorFailed("it aborted"))
        workers.may_load.set()
        assert (await asked).status_code == 502
        told = await previewed(client)
        assert (told["would"], told["decision"]["node"]) == ("refuse", "")
        assert told["decision"]["reason"].endswith("it aborted")
        await asyncio.sleep(1.1)
        await chat(client, "one")
        assert (await previewed(client))["decision"]["node"] == "shard:one:latest"
        unknown = {"path": "/api/chat", "body": {"model": "none"}}
        assert (await client.post("/sollol/v1/route", json=unknown)).status_code == 404


async def test_the_cli_tells_of_a_model_that_is_not_loaded(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    async with sharding(store, ScriptedWorkers(w1=GIB)) as (running, _):
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, ["route", "one", "hi", "--url", running.url])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert "Why:         the model would first be loaded over workers" in out
    assert "It:          waits until that is done" in out


async def test_the_cli_shows_and_stops_them(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    async def sollol(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            await asyncio.to_thread(main, ["shard", *arguments])
        return capsys.readouterr().out

    workers = ScriptedWorkers(w1=GIB, w2=GIB)
    async with sharding(store, workers) as (running, client):
        assert "No model runs" in await sollol("ps", "--url", running.url)
        workers.may_load.clear()
        asked = asyncio.ensure_future(chat(client, "one"))
        await wait_for(lambda: bool(workers.made))
        workers.made[0].on_progress(LoadProgress(0.5, 12.0))
        assert "loading 50%, ~12 s left" in await sollol("ps", "--url", running.url)
        workers.may_load.set()
        await asked
        shown = await sollol("ps", "--url", running.url)
        assert "ready" in shown
        assert "10.0.0.1:50052" in shown
        assert '"enabled": true' in await sollol("ps", "--json", "--url", running.url)
        assert "leaves its workers." in await sollol("stop", "one", "--url", running.url)
        await wait_for(lambda: not workers.running)
        workers.failures.append(CoordinatorFailed("out of memory"))
        await chat(client, "two")
        shown = await sollol("ps", "--url", running.url)
        assert "failed, again in " in shown
        assert "two:latest: out of memory" in shown
        await asyncio.sleep(1.1)
        shown = await sollol("ps", "--url", running.url)
        assert "failed, tried when asked for" in shown
        await chat(client, "two")
        assert "out of memory" not in await sollol("ps", "--url", running.url)
        await sollol("stop", "two", "--url", running.url)
        await wait_for(lambda: not workers.running)
        assert "No model runs" in await sollol("ps", "--url", running.url)
    async with running_gateway() as running:
        assert "has no workers" in await sollol("ps", "--url", running.url)
