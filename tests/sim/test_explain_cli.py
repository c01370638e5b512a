"""``sollol explain``, ``route`` and ``queue`` against a real gateway over two nodes."""

import asyncio
import json
from typing import Any

import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault
from sollol.cli.main import main
from tests.fleets import MODEL, Fleet, a_fleet
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

CHAT = {"model": MODEL.name, "messages": [{"role": "user", "content": "hi"}]}
ONE = SimConfig(models=(MODEL,))

Captured = pytest.CaptureFixture[str]


async def shown(fleet: Fleet, capsys: Captured, *arguments: str, exit_code: int = 0) -> str:
    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--url", fleet.running.url])
        return int(ended.value.code or 0)

    capsys.readouterr()
    assert await asyncio.to_thread(run) == exit_code
    captured = capsys.readouterr()
    return captured.err if exit_code else captured.out


async def ask(fleet: Fleet, name: str, path: str = "/api/chat", **fields: Any) -> None:
    """Make a request and wait until it is noted that it has ended."""
    await fleet.client.post(path, json={**CHAT, **fields}, headers={"X-Request-Id": name})
    entry = fleet.running.gateway.journal.find(name)[0]
    await wait_for(lambda: entry.duration_s is not None)


async def test_a_request_is_explained_as_a_table_and_sentences(capsys: Captured) -> None:
    async with a_fleet(ONE, ONE) as fleet:
        assert await shown(fleet, capsys, "explain") == "No request is known yet.\n"
        await ask(fleet, "mine", format="json")
        text = await shown(fleet, capsys, "explain", "mine")
        assert await shown(fleet, capsys, "explain") == text
        told = json.loads(await shown(fleet, capsys, "explain", "mine", "--json"))
    (entry,) = told["decisions"]
    (header,) = (line for line in text.splitlines() if "PREFILL" in line)
    assert header.split()[0] == "NODE"
    (marked,) = (line for line in text.splitlines() if line.startswith("->"))
    assert marked.split()[1] == entry["node"]
    assert f"Request:     mine ({entry['id']})" in text
    assert "Complexity:  light, needs format" in text
    assert entry["attempts"][0]["decision"]["reason"] in text
    assert "Predicted:   load " in text
    assert "Real:        load " in text
    assert "Outcome:     ok" in text


async def test_the_latest_are_listed(capsys: Captured) -> None:
    async with a_fleet(ONE) as fleet:
        await ask(fleet, "one")
        await ask(fleet, "two", model="absent")
        text = await shown(fleet, capsys, "explain", "--last", "5")
        both = await shown(fleet, capsys, "explain", "one", "--last", "5", exit_code=2)
        unknown = await shown(fleet, capsys, "explain", "nobodys", exit_code=1)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["REQUEST", "two", "one"]
    assert "model_not_found" in lines[1]
    assert both == "Give the id of a request or --last, not both.\n"
    assert unknown == "Error: no request nobodys is known; only the latest are kept\n"


async def test_all_attempts_and_errors_are_shown(capsys: Captured) -> None:
    async with a_fleet(ONE, ONE) as fleet:
        for node in fleet.nodes:
            node.set_fault(Fault("close_before_head", path="/api/chat", times=1))
        await ask(fleet, "same")
        await ask(fleet, "same", path="/api/show")
        text = await shown(fleet, capsys, "explain", "same")
    assert text.count("Error:       upstream_cut") == 2
    assert "Outcome:     upstream_cut: " in text
    assert "Why:         takes no slot" in text


async def test_a_preview_is_a_table_and_sentences(capsys: Captured) -> None:
    async with a_fleet(ONE, ONE) as fleet:
        question = ("route", MODEL.name, "Why is the sky blue?")
        text = await shown(fleet, capsys, *question)
        told = json.loads(await shown(fleet, capsys, *question, "--priority", "9", "--json"))
        assert fleet.running.gateway.journal.find("preview") == []
        absent = await shown(fleet, capsys, "route", "absent", "x", exit_code=1)
    assert "It:          begins at once" in text
    assert "Done in:     " in text
    assert told["priority"] == 9
    assert absent == "Error: model 'absent' not found\n"


async def test_the_queue_is_a_table(capsys: Captured) -> None:
    async with a_fleet(ONE) as fleet:
        assert await shown(fleet, capsys, "queue") == "Nobody waits.\n"
        fleet.nodes[0].set_fault(Fault("hang_before_head", path="/api/chat", times=1))
        askers = []
        for name in ("first", "second"):
            headers = {"X-Request-Id": name}
            post = fleet.client.post("/api/chat", json=CHAT, headers=headers)
            askers.append(asyncio.ensure_future(post))
            await wait_for(lambda: fleet.running.in_flight == 1)
        await wait_for(lambda: fleet.running.queued == 1)
        text = await shown(fleet, capsys, "queue")
        told = json.loads(await shown(fleet, capsys, "queue", "--json"))
        waiting = await shown(fleet, capsys, "explain", "second")
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)
    assert text.splitlines()[1].split()[:2] == ["1", "second"]
    assert "Waiting: 1 of at most 512" in text
    assert told["waiting"][0]["request_id"] == "second"
    assert "Waiting:     place 1, for " in waiting
    assert "Outcome:     waiting" in waiting
