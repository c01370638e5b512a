"""A gateway that is stopped, killed or short of disk, and several of them: nobody else suffers."""

import asyncio
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.gateway.estimates import read
from sollol.types import NodeState
from tests.gateway_process import ROOT, gateway_process, wait_metric
from tests.gateways import running_gateway, wait_for

pytestmark = pytest.mark.sim

MODEL = SimModel("m")
STREAMING = SimConfig(models=(MODEL,), slots=8, chunk_interval_s=0.02)
KILLS = int(os.environ.get("SOLLOL_TEST_KILLS", "8"))
"""How often a writer of the state file is killed; each time at a random instant."""


def chat(tokens: int, *, stream: bool = True) -> dict[str, Any]:
    message = {"role": "user", "content": "hi"}
    options = {"num_predict": tokens}
    return {"model": "m", "messages": [message], "stream": stream, "options": options}


def grace(seconds: float) -> dict[str, object]:
    return {"server.shutdown_grace_s": seconds}


def last_records(answers: Iterable[httpx.Response]) -> list[dict[str, Any]]:
    return [json.loads(answer.text.splitlines()[-1]) for answer in answers]


async def test_a_term_signal_drains_and_ends_well(tmp_path: Path) -> None:
    async with (
        SimNode(STREAMING) as node,
        gateway_process(tmp_path, node.url, slots=8, settings=grace(20)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        streams = [asyncio.ensure_future(client.post("/api/chat", json=chat(60))) for _ in range(8)]
        await wait_for(lambda: node.state.engine.decoding == 8)
        waiting = [asyncio.ensure_future(client.post("/api/chat", json=chat(1))) for _ in range(5)]
        await wait_metric(gateway, "sollol_queue_length", 5)
        gateway.process.send_signal(signal.SIGTERM)
        refused = await asyncio.gather(*waiting)
        assert [answer.status_code for answer in refused] == [503] * 5
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert not any(stream.done() for stream in streams)
        assert all(record["done"] for record in last_records(await asyncio.gather(*streams)))
        async with asyncio.timeout(20):
            assert await gateway.process.wait() == 0
        assert len(gateway.log("stopped")) == 1


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with (
        SimNode(STREAMING) as node,
        gateway_process(tmp_path, node.url, settings=grace(600)) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        stream = asyncio.ensure_future(client.post("/api/chat", json=chat(100_000)))
        await wait_for(lambda: node.state.engine.decoding == 1)
        gateway.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: bool(gateway.log("stopping")))
        assert await gateway.end() == 0
        assert last_records([await stream]) == [{"error": "the gateway is shutting down"}]
        await wait_for(lambda: node.in_flight == 0)


async def test_nodes_stop_working_for_a_gateway_that_was_killed(tmp_path: Path) -> None:
    async with (
        SimNode(STREAMING) as first,
        SimNode(STREAMING) as second,
        gateway_process(tmp_path, first.url, second.url, slots=8) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        asking = [
            asyncio.ensure_future(client.post("/api/chat", json=chat(100_000, stream=n % 2 == 0)))
            for n in range(12)
        ]
        await wait_for(lambda: sum(n.state.engine.decoding for n in (first, second)) == 12)
        assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*asking, return_exceptions=True)
        for node in (first, second):
            await wait_for(lambda n=node: n.in_flight == 0 and n.open_connections == 0)  # type: ignore[misc]
            chats = [one.outcome for one in node.requests if one.path == "/api/chat"]
            assert set(chats) <= {"aborted"}


WRITER = """
import sys
from pathlib import Path
from sollol.gateway.estimates import write
number, path, pad = int(sys.argv[1]), Path(sys.argv[2]), "x" * int(sys.argv[3])
print("up", flush=True)
while True:
    write(path, {"version": number, "pad": pad})
"""


async def start_writer(number: int, path: Path, length: int) -> asyncio.subprocess.Process:
    """Start a process that writes a state file of its own again and again."""
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, str(number), str(path), str(length)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"up\n"
    return writer


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


@pytest.mark.timeout(60 + 2 * KILLS)
async def test_the_state_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path, rng = tmp_path / "estimates.json", random.Random(5)
    for number in range(KILLS):
        writer = await start_writer(number, path, 100_000)
        await wait_for(path.exists)
        await asyncio.sleep(rng.uniform(0.0, 0.05))
        await kill(writer)
        kept: Any = read(path)
        assert len(kept["pad"]) == 100_000


async def test_the_remains_of_killed_writers_go_in_time(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    old, new, other = (tmp_path / name for name in (".estimates.json.a", ".estimates.json.b", ".c"))
    for file in (old, new, other):
        file.write_text("half")
    for file in (old, other):
        os.utime(file, (1.0, 1.0))
    writer = await start_writer(1, path, 10)
    await wait_for(lambda: path.exists() and not old.exists())
    await kill(writer)
    assert new.exists()  # another gateway may be writing it at this moment
    assert other.exists()


async def test_two_gateways_may_have_one_state_file(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    writers = [await start_writer(number, path, 10_000 * number) for number in (1, 2)]
    await wait_for(path.exists)
    seen: dict[int, int] = {}
    while len(seen) < 2 or sum(seen.values()) < 200:
        kept: Any = read(path)
        assert len(kept["pad"]) == 10_000 * kept["version"]
        seen[kept["version"]] = seen.get(kept["version"], 0) + 1
        await asyncio.sleep(0)
    for writer in writers:
        await kill(writer)


def forbid_files() -> None:
    """Let no file grow, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


async def test_a_full_disk_costs_long_bodies_and_nothing_else(tmp_path: Path) -> None:
    state_file = tmp_path / "estimates.json"
    async with (
        SimNode(SimConfig(models=(MODEL,))) as node,
        gateway_process(
            tmp_path,
            node.url,
            before=forbid_files,
            settings={"scheduling.state_file": state_file},
        ) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
    ):
        for _ in range(5):
            assert (await client.post("/api/chat", json=chat(5))).status_code == 200
        long = chat(5) | {"pad": "x" * 3_000_000}
        refused = await client.post("/api/chat", json=long)
        assert refused.status_code == 503
        assert "no room for the request body" in refused.json()["error"]
        assert (await client.post("/api/chat", json=chat(5))).status_code == 200
        assert await gateway.end() == 0
        (line,) = gateway.log("estimates_not_saved")
        assert "scheduling.state_file" in line["advice"]
        assert os.listdir(tmp_path) == []


async def test_what_was_learned_is_there_after_a_kill(tmp_path: Path) -> None:
    state_file = tmp_path / "estimates.json"
    settings = {"scheduling.state_file": state_file}
    async with SimNode(SimConfig(models=(MODEL,))) as node:
        for number in (signal.SIGTERM, signal.SIGKILL):
            async with (
                gateway_process(tmp_path, node.url, settings=settings) as gateway,
                httpx.AsyncClient(base_url=gateway.url, timeout=20) as client,
            ):
                assert (await client.post("/api/chat", json=chat(5))).status_code == 200
                await gateway.end(number)
                assert not gateway.log("estimates_not_read")
    kept: Any = msgspec.json.decode(state_file.read_bytes())
    assert kept["rates"]["pairs"]


async def test_two_gateways_on_the_same_nodes_both_serve() -> None:
    config = SimConfig(models=(MODEL,), slots=1, chunk_interval_s=0.002)
    async with (
        SimNode(config) as first,
        SimNode(config) as second,
        running_gateway(first.url, second.url) as one,
        running_gateway(first.url, second.url) as other,
        httpx.AsyncClient(timeout=30) as client,
    ):
        urls = [one.url, other.url]
        asking = [client.post(f"{urls[n % 2]}/api/chat", json=chat(20)) for n in range(80)]
        answers = await asyncio.gather(*asking)
        assert {answer.status_code for answer in answers} == {200}
        assert all(record["done"] for record in last_records(answers))
        for running in (one, other):
            states = [view.state for view in running.gateway.registry.views()]
            assert states == [NodeState.HEALTHY] * 2
        for node in (first, second):  # each took its part, with the queue of its own that it has
            assert sum(one.path == "/api/chat" for one in node.requests) >= 20
