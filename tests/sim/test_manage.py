"""Pull, push, create, copy and delete over several nodes; ``docs/guides/managing-models.md`` says
what comes out of each, in the same order."""

import asyncio

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from sollol.bench.sim.node import SimNode
from tests.fleets import MODEL, a_fleet, records
from tests.gateways import running_gateway, wait_for

pytestmark = pytest.mark.sim

EMPTY = SimConfig()
HOLDER = SimConfig(models=(MODEL,))
SLOW = SimConfig(models=(MODEL,), time_scale=0.02)
"""Pulls a gibibyte in 0.2 s."""
BROKEN_DISK = Fault("error_record_after_n", path="/api/pull", records=3, message="disk full")


async def test_a_new_model_goes_to_every_node_and_is_there_at_once() -> None:
    async with a_fleet(EMPTY, EMPTY, EMPTY, probe={"interval_s": 60}) as fleet:
        answer = await fleet.post("/api/pull", {"model": MODEL.name})
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-sollol-nodes"] == "a,b,c"
        assert fleet.having(MODEL.name) == "abc"
        assert await fleet.listed() == [MODEL.name]
        chat = {"model": MODEL.name, "messages": [], "stream": False}
        assert (await fleet.post("/api/chat", chat)).status_code == 200


async def test_a_probe_that_began_before_a_change_does_not_undo_what_is_known() -> None:
    async with a_fleet(EMPTY, probe={"interval_s": 60}) as fleet:
        gateway, node = fleet.running.gateway, fleet.nodes[0]
        (known,) = gateway.registry.nodes()
        before = len(node.requests)
        node.set_fault(Fault("slow_drip", path="/api/tags", times=1, interval_s=0.003))
        early = asyncio.ensure_future(gateway.prober.probe(known))
        await wait_for(lambda: any(r.path == "/api/tags" for r in node.requests[before:]))
        await fleet.post("/api/pull", {"model": "x"})
        assert not early.done()
        await early
        assert await fleet.listed() == ["x:latest"]


async def test_one_node_is_passed_on_record_by_record() -> None:
    async with a_fleet(SimConfig(time_scale=0.001)) as fleet:
        through = await fleet.post("/api/pull", {"model": MODEL.name})
        await fleet.delete({"model": MODEL.name})
        direct = httpx.AsyncClient(base_url=fleet.nodes[0].url)
        async with direct:
            there = await direct.post("/api/pull", json={"model": MODEL.name})
        assert [r for r in records(there) if r in records(through)] == records(through)
        assert records(through)[-1] == {"status": "success"}
        assert records(through)[0] == {"status": "pulling manifest"}


async def test_a_known_model_is_pulled_where_it_is() -> None:
    async with a_fleet(EMPTY, HOLDER, HOLDER) as fleet:
        answer = await fleet.post("/api/pull", {"model": MODEL.name})
        assert answer.headers["x-sollol-nodes"] == "b,c"
        assert fleet.having(MODEL.name) == "bc"


@pytest.mark.parametrize(("pull_to", "nodes"), [("one", "b"), ("a,b", "ab"), (["c"], "c")])
async def test_settings_say_where_a_new_model_goes(pull_to: object, nodes: str) -> None:
    big = SimConfig(models=(SimModel("other", size_gib=3),))
    small = SimConfig(models=(SimModel("other", size_gib=1),))
    async with a_fleet(big, small, big, fleet={"pull_to": pull_to}) as fleet:
        await fleet.post("/api/pull", {"model": "new"})
        assert fleet.having("new") == nodes


async def test_the_caller_says_where_a_model_goes() -> None:
    async with a_fleet(EMPTY, HOLDER, EMPTY) as fleet:
        await fleet.post("/api/pull", {"model": "x"}, nodes="c, a")
        assert fleet.having("x") == "ac"
        await fleet.post("/api/pull", {"model": MODEL.name}, nodes="all")
        assert fleet.having(MODEL.name) == "abc"
        await fleet.delete({"model": MODEL.name}, nodes="b")
        assert fleet.having(MODEL.name) == "ac"
        unknown = await fleet.post("/api/pull", {"model": "x"}, nodes="a,z")
        assert unknown.status_code == 400
        assert unknown.json()["error"] == 'no node is called "z"; there are: a, b, c'
        assert (await fleet.post("/api/pull", {"model": "x"}, nodes="")).status_code == 400


async def test_a_pull_that_fails_on_one_node_goes_on_on_the_others() -> None:
    async with a_fleet(SLOW, EMPTY, EMPTY) as fleet:
        fleet.nodes[1].set_fault(BROKEN_DISK)
        answer = await fleet.post("/api/pull", {"model": "new"}, nodes="all")
        assert answer.status_code == 200
        *progress, last = records(answer)
        assert last["error"].startswith("node b: disk full; succeeded on ")
        assert sorted(last["error"].rpartition(" on ")[2].split(", ")) == ["a", "c"]
        assert fleet.having("new") == "ac"
        assert not any(r.get("status") == "success" for r in progress)
        assert [r for r in progress if r == {"status": "pulling manifest"}] == progress[:1]


async def test_without_a_stream_only_the_end_is_told() -> None:
    async with a_fleet(SLOW, EMPTY) as fleet:
        done = await fleet.post("/api/pull", {"model": "new", "stream": False})
        assert (done.status_code, done.text) == (200, '{"status":"success"}')
        assert done.headers["content-type"] == "application/json"
        fleet.nodes[1].set_fault(BROKEN_DISK)
        failed = await fleet.post("/api/pull", {"model": "other", "stream": False})
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/json"
        assert failed.json() == {"error": "node b: disk full; succeeded on a"}


async def test_what_all_nodes_refuse_alike_is_said_as_one_says_it() -> None:
    empty_registry = SimConfig(registry=())
    async with a_fleet(empty_registry, empty_registry) as fleet:
        answer = await fleet.post("/api/pull", {"model": "nope"})
        assert records(answer) == [
            {"status": "pulling manifest"},
            {"error": "pull model manifest: file does not exist"},
        ]
        refused = await fleet.post("/api/create", {"model": "x"})
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/json"
        assert refused.json() == {"error": "neither 'from' or 'files' was specified"}


async def test_a_node_that_is_down_or_ends_early_is_named() -> None:
    async with a_fleet(EMPTY, EMPTY, EMPTY) as fleet:
        await fleet.nodes[0].stop_listening()
        cut = Fault("cut_after_n_records", path="/api/pull", records=2)
        fleet.nodes[1].set_fault(cut)
        answer = await fleet.post("/api/pull", {"model": "x"}, nodes="a,b,c")
        error = records(answer)[-1]["error"]
        assert "node a: cannot connect to" in error
        assert "node b: " in error
        assert error.endswith("; succeeded on c")
        fleet.nodes[2].set_fault(Fault("end_without_done_after_n", path="/api/pull", records=2))
        alone = await fleet.post("/api/pull", {"model": "x"}, nodes="c")
        assert records(alone)[-1] == {"error": "it ended before it said whether it succeeded"}
        unreachable = await fleet.post("/api/pull", {"model": "x"}, nodes="a")
        assert unreachable.status_code == 502


async def test_push_uses_one_holder() -> None:
    async with a_fleet(EMPTY, HOLDER, HOLDER) as fleet:
        answer = await fleet.post("/api/push", {"model": MODEL.name})
        assert records(answer)[-1] == {"status": "success"}
        assert answer.headers["x-sollol-nodes"] == "b"
        assert fleet.asked("/api/push") == "b"
        await fleet.post("/api/push", {"model": MODEL.name}, nodes="c")
        assert fleet.asked("/api/push") == "bc"
        unknown = await fleet.post("/api/push", {"model": "me/nope", "stream": False})
        assert unknown.status_code == 500
        assert unknown.json()["error"].endswith("me/nope/latest: no such file or directory")


async def test_push_from_the_node_of_the_settings() -> None:
    async with a_fleet(HOLDER, HOLDER, fleet={"push_from": "b"}) as fleet:
        await fleet.post("/api/push", {"model": MODEL.name})
        assert fleet.asked("/api/push") == "b"


async def test_create_from_a_model_happens_where_that_is() -> None:
    async with a_fleet(HOLDER, EMPTY, HOLDER) as fleet:
        body = {"model": "mario", "from": MODEL.name, "system": "You are Mario."}
        answer = await fleet.post("/api/create", body)
        assert records(answer)[-1] == {"status": "success"}
        assert fleet.having("mario") == "ac"
        assert await fleet.listed() == [MODEL.name, "mario:latest"]
        stored = [fleet.nodes[place].state.models.find("mario") for place in (0, 2)]
        assert len({s.model.digest for s in stored if s}) == 1


async def test_create_from_a_model_that_no_node_has_pulls_it_first() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        answer = await fleet.post("/api/create", {"model": "mario", "from": "qwen3:8b"})
        assert records(answer)[0] == {"status": "pulling manifest"}
        assert records(answer)[-1] == {"status": "success"}
        assert fleet.having("mario") == fleet.having("qwen3:8b") == "ab"


async def test_create_that_fails_on_one_holder_goes_on_on_the_others() -> None:
    async with a_fleet(HOLDER, HOLDER, SLOW, EMPTY) as fleet:
        full = Fault("error_record_after_n", path="/api/create", records=1, message="disk full")
        fleet.nodes[1].set_fault(full)
        answer = await fleet.post("/api/create", {"model": "mario", "from": MODEL.name})
        assert answer.headers["x-sollol-nodes"] == "a,b,c"
        last = records(answer)[-1]["error"]
        assert last.startswith("node b: disk full; succeeded on ")
        assert fleet.having("mario") == "ac"


async def test_push_that_fails_says_why_as_the_node_does() -> None:
    async with a_fleet(HOLDER, HOLDER) as fleet:
        denied = Fault("status", path="/api/push", status=401, message="unauthorized")
        fleet.nodes[0].set_fault(denied)
        answer = await fleet.post("/api/push", {"model": MODEL.name})
        assert (answer.status_code, answer.json()) == (401, {"error": "unauthorized"})


async def test_copy_reaches_every_holder() -> None:
    async with a_fleet(HOLDER, EMPTY, HOLDER, probe={"interval_s": 60}) as fleet:
        answer = await fleet.post("/api/copy", {"source": MODEL.name, "destination": "twin"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert "content-type" not in answer.headers
        assert fleet.having("twin") == "ac"
        assert await fleet.listed() == [MODEL.name, "twin:latest"]


async def test_delete_reaches_every_holder_and_forgets_at_once() -> None:
    async with a_fleet(HOLDER, EMPTY, SLOW, probe={"interval_s": 60}) as fleet:
        answer = await fleet.delete({"model": MODEL.name})
        assert (answer.status_code, answer.content) == (200, b"")
        assert fleet.having(MODEL.name) == ""
        assert fleet.asked("/api/delete") == "ac"
        assert await fleet.listed() == []
        again = await fleet.delete({"model": MODEL.name})
        assert again.status_code == 404
        assert again.json() == {"error": f"model '{MODEL.name}' not found"}


async def test_a_node_that_lost_the_model_meanwhile_does_not_matter() -> None:
    async with a_fleet(HOLDER, HOLDER, probe={"interval_s": 60}) as fleet:
        fleet.nodes[0].state.models.remove(MODEL.name)
        assert (await fleet.delete({"model": MODEL.name})).status_code == 200
        assert fleet.asked("/api/delete") == "ab"


async def test_a_model_that_the_gateway_did_not_see_yet_is_found() -> None:
    async with a_fleet(EMPTY, EMPTY, probe={"interval_s": 60}) as fleet:
        fleet.nodes[1].state.models.add(MODEL, "late")
        assert (await fleet.delete({"model": "late"})).status_code == 200
        assert fleet.having("late") == ""


@pytest.mark.parametrize("path", ["/api/copy", "/api/delete"])
async def test_a_change_that_fails_on_one_holder_is_told(path: str) -> None:
    async with a_fleet(HOLDER, HOLDER, SLOW) as fleet:
        fleet.nodes[1].set_fault(Fault("status", path=path, status=500, message="read-only disk"))
        if path == "/api/delete":
            answer = await fleet.delete({"model": MODEL.name})
        else:
            answer = await fleet.post(path, {"source": MODEL.name, "destination": "twin"})
        assert answer.status_code == 500
        assert answer.json() == {"error": "node b: read-only disk; succeeded on a, c"}


async def test_a_holder_that_is_down_is_told() -> None:
    async with a_fleet(HOLDER, HOLDER) as fleet:
        await fleet.nodes[1].stop_listening()
        fleet.nodes[1].reset_connections()
        await fleet.running.wait_healthy(1)
        answer = await fleet.delete({"model": MODEL.name})
        assert answer.status_code == 500
        assert "node b: cannot connect to" in answer.json()["error"]
        assert answer.json()["error"].endswith("; succeeded on a")


async def test_nodes_that_fail_each_in_their_own_way_before_any_progress_are_all_named() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        for node, message in zip(fleet.nodes, ("full", "dead"), strict=True):
            node.set_fault(Fault("status", path="/api/pull", status=500, message=message))
        answer = await fleet.post("/api/pull", {"model": "x"})
        assert answer.status_code == 500
        assert answer.json() == {"error": "node a: full; node b: dead"}


async def test_a_node_gets_its_own_key_and_nothing_of_the_callers() -> None:
    async with SimNode(HOLDER) as node:
        listed = {"url": node.url, "name": "a", "api_key": "the-nodes-key"}
        async with running_gateway(listed) as running, httpx.AsyncClient() as client:
            await client.post(
                f"{running.url}/api/pull",
                json={"model": "x"},
                headers={"Authorization": "Bearer mine", "Origin": "http://localhost"},
            )
        (pull,) = [r for r in node.requests if r.path == "/api/pull"]
        assert pull.headers["authorization"] == "Bearer the-nodes-key"
        assert "origin" not in pull.headers
        assert "x-sollol-nodes" not in pull.headers


async def test_only_ollama_nodes_are_asked() -> None:
    async with running_gateway() as running, httpx.AsyncClient(base_url=running.url) as client:
        none = await client.post("/api/pull", json={"model": "x"})
        assert (none.status_code, none.json()) == (503, {"error": "no Ollama node is up"})
        assert none.headers["retry-after"] in ("5", "6")


REFUSALS = [
    ("/api/pull", "{bad", "invalid character 'b' looking for beginning of object key string"),
    ("/api/pull", '{"model":', "unexpected EOF"),
    ("/api/pull", "[]", "json: cannot unmarshal array into Go value of type api.PullRequest"),
    (
        "/api/pull", '{"model":1}',
        "json: cannot unmarshal number into Go struct field PullRequest.model of type string",
    ),
    ("/api/copy", '{"source":"a b","destination":"x"}', 'source "a b" is invalid'),
]  # fmt: skip


async def test_bodies_are_read_as_ollama_reads_them() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        for path, body, error in REFUSALS:
            answer = await fleet.client.post(path, content=body)
            got = (answer.status_code, answer.headers["content-type"], answer.json())
            assert got == (400, "application/json; charset=utf-8", {"error": error}), body


async def test_log_and_metrics_tell_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    async with a_fleet(HOLDER) as fleet:
        answer = await fleet.client.post(
            "/api/copy",
            json={"source": MODEL.name, "destination": "y"},
            headers={"X-Request-Id": "mine"},
        )
        assert answer.headers["x-sollol-request-id"] == "mine"
        metrics = (await fleet.client.get("/metrics")).text
        line = 'sollol_requests_total{node="a",outcome="ok",task="manage"} 1.0'
        assert line in metrics
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "request_done" in line]
    for field in ("request_id=mine", "path=/api/copy", "nodes=a", "status=200", "outcome=ok"):
        assert field in line
