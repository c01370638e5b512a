"""A real ``sollol serve`` whose nodes follow its settings at SIGHUP; and nodes changed by commands."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.cli.main import main
from tests.gateways import RunningGateway, running_gateway

pytestmark = pytest.mark.sim

MODEL = "llama3.2:3b"
PACED = SimConfig(models=(SimModel(MODEL),), chunk_interval_s=0.02)
QUICK = SimConfig(models=(SimModel(MODEL),))


class Process:
    """The process, its URL, and the events it has logged."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self.file = file
        self.url = ""

    async def wait_event(self, name: str) -> dict[str, Any]:
        """Return the next log line with this event; those before it are skipped."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := await self.process.stderr.readline():
                event: dict[str, Any] = json.loads(line)
                if event["event"] == name:
                    return event
        raise AssertionError(f"the gateway ended without {name}")

    def write(self, *nodes: Any, **groups: Any) -> None:
        """Write the settings file and ask for it to be read."""
        self.file.write_text(settings_text(*nodes, **groups), encoding="utf-8")
        self.process.send_signal(signal.SIGHUP)


def settings_text(*nodes: Any, **groups: Any) -> str:
    return yaml.safe_dump({"nodes": list(nodes), "discovery": {"local": False}, **groups})


def environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SOLLOL_", "OLLAMA_"))}
    return own | {"PYTHONPATH": os.pathsep.join(sys.path)}


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *nodes: Any, stdin: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[Process]:
    file = folder / "sollol.yaml"
    file.write_text(settings_text(*nodes), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sollol", "serve", "--port", "0", "--no-embedded",
        "--set", "scheduling.state_file=off",
        "--config", str(file), "--log-format", "json",
        stdin=stdin, stderr=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    running = Process(process, file)
    try:
        running.url = (await running.wait_event("listening"))["url"]
        for _ in nodes:
            await running.wait_event("node_up")
        yield running
        if process.returncode is None:
            process.terminate()
            await running.wait_event("stopped")
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as made:
        yield made


async def states(
    client: httpx.AsyncClient, process: Process | RunningGateway
) -> dict[str, dict[str, Any]]:
    answer = (await client.get(f"{process.url}/sollol/v1/nodes")).json()
    return {node["id"]: node for node in answer["nodes"]}


def chat(tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": "hi"}
    return {"model": MODEL, "messages": [message], "options": {"num_predict": tokens}}


async def test_nodes_follow_the_file_and_no_request_is_lost(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with SimNode(PACED) as old, SimNode(QUICK) as new, SimNode(QUICK) as added:
        async with serving(tmp_path, {"url": old.url, "name": "old"}) as process:
            body = {"url": added.url, "name": "by-hand"}
            await client.post(f"{process.url}/sollol/v1/nodes", json=body)
            await client.patch(f"{process.url}/sollol/v1/nodes/by-hand", json={"draining": True})
            stream = asyncio.ensure_future(client.post(f"{process.url}/api/chat", json=chat(60)))
            while not (await states(client, process))["old"]["in_flight"]:
                pass
            process.write({"url": new.url, "name": "new", "slots": 3})
            assert (await process.wait_event("node_leaving"))["node"] == "old"
            assert (await process.wait_event("node_added"))["node"] == "new"
            assert (await process.wait_event("node_up"))["node"] == "new"
            assert json.loads((await stream).text.splitlines()[-1])["done"] is True
            assert (await process.wait_event("node_removed"))["cut_requests"] == 0
            now = await states(client, process)
            assert {node_id: node["source"] for node_id, node in now.items()} == {
                "by-hand": "api",
                "new": "settings",
            }
            assert now["new"]["slots"] == 3
            process.write({"url": new.url, "name": "new", "draining": True})
            await process.wait_event("node_changed")
            assert (await states(client, process))["new"]["state"] == "draining"


async def test_a_node_with_another_address_replaces_the_one_of_its_name(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with SimNode(QUICK) as old, SimNode(QUICK) as new:
        async with serving(tmp_path, {"url": old.url, "name": "one"}) as process:
            process.write({"url": new.url, "name": "one"})
            await process.wait_event("node_removed")
            await process.wait_event("node_up")
            assert (await states(client, process))["one"]["url"] == new.url


async def test_what_needs_a_restart_is_named_and_what_is_wrong_changes_nothing(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with SimNode(QUICK) as node, serving(tmp_path, node.url) as process:
        process.write(node.url, queue={"max_length": 7})
        needed = await process.wait_event("setting_needs_a_restart")
        assert needed["setting"] == "queue.max_length"
        await process.wait_event("settings_reloaded")
        process.write("ftp://x", queue={"max_lenght": 7})
        reasons = [(await process.wait_event("settings_invalid"))["reason"] for _ in range(2)]
        assert "queue.max_lenght: did you mean queue.max_length?" in reasons[0]
        assert "must start with http:// or https://" in reasons[1]
        assert [n["state"] for n in (await states(client, process)).values()] == ["healthy"]


async def test_a_file_nested_without_end_does_not_end_the_reading_of_settings(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with SimNode(QUICK) as node, serving(tmp_path) as process:
        process.file.write_text("nodes: " + "[" * 5000 + "]" * 5000, encoding="utf-8")
        process.process.send_signal(signal.SIGHUP)
        assert "nested too deeply" in (await process.wait_event("settings_invalid"))["reason"]
        process.write(node.url)
        await process.wait_event("node_up")
        assert len(await states(client, process)) == 1


async def test_what_the_file_says_last_counts_after_a_node_has_left(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with SimNode(PACED) as old, SimNode(QUICK) as new, SimNode(QUICK) as newer:
        async with serving(tmp_path, {"url": old.url, "name": "one"}) as process:
            chats = f"{process.url}/api/chat"
            async with client.stream("POST", chats, json=chat(1000)) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                for name, url in (("one", new.url), ("one", newer.url), ("two", new.url)):
                    process.write({"url": url, "name": name})
                    await process.wait_event("settings_reloaded")
            await process.wait_event("node_removed")
            for _ in range(20):  # each is a turn for whoever would add the others
                await states(client, process)
            now = await states(client, process)
            assert {name: node["url"] for name, node in now.items()} == {"two": new.url}


async def test_discovery_follows_the_file(tmp_path: Path, client: httpx.AsyncClient) -> None:
    async with SimNode(QUICK) as node, serving(tmp_path) as process:
        process.write(discovery={"local": True, "local_url": node.url})
        assert (await process.wait_event("node_found"))["source"] == "local"
        process.write()
        assert (await process.wait_event("node_leaving"))["reason"] == "discovery.local is off"
        await process.wait_event("node_removed")
        assert await states(client, process) == {}


async def test_a_terminal_that_goes_away_ends_it(tmp_path: Path) -> None:
    terminal, stdin = os.openpty()
    async with serving(tmp_path, stdin=stdin) as process:
        os.close(stdin)
        process.write()
        await process.wait_event("settings_reloaded")
        os.close(terminal)
        process.process.send_signal(signal.SIGHUP)
        await process.wait_event("stopped")
        assert await process.process.wait() == 0


async def command(
    running: RunningGateway, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Return how ``sollol nodes`` ends, and what it says beside the log of the gateway."""

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            main(["nodes", *arguments, "--url", running.url])
        return int(ended.value.code or 0)

    code = await asyncio.to_thread(run)
    told = "".join(capsys.readouterr()).splitlines(keepends=True)
    return code, "".join(line for line in told if not line[:1].isdigit())


async def test_commands_add_drain_resume_and_remove(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    async with SimNode(QUICK) as node, running_gateway() as running:
        run = partial(command, running, capsys)
        add = ("add", node.url, "--name", "one", "--slots", "2", "--engine", "ollama")
        assert await run(*add) == (0, "Added one (ollama, healthy).\n")
        assert await run(*add) == (1, "Error: a node is called one already\n")
        assert (await states(client, running))["one"]["slots"] == 2
        assert (await run("drain", "one"))[0] == 0
        assert (await states(client, running))["one"]["state"] == "draining"
        assert (await run("resume", "one"))[0] == 0
        assert (await states(client, running))["one"]["state"] == "healthy"
        assert await run("remove", "one", "--drain-s", "1") == (0, "Removed one.\n")
        gone = "Error: no node is called one; there are: none\n"
        assert await run("remove", "one") == (1, gone)
