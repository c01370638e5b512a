"""What one node answers for all, about its account at ollama.com."""

import asyncio

import httpx
import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault, FaultKind
from tests.fleets import a_fleet
from tests.gateways import running_gateway, wait_for
from tests.ollama_script import ollama_script, plain

pytestmark = pytest.mark.sim

SEARCH = "/api/experimental/web_search"
EMPTY = SimConfig()


async def test_one_node_is_asked_for_all() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        assert (await fleet.client.get("/api/status")).status_code == 200
        assert (await fleet.client.post(SEARCH)).status_code == 400
        assert fleet.asked("/api/status") == fleet.asked(SEARCH) == "a"


async def test_the_request_goes_through_as_it_came() -> None:
    answers = {
        SEARCH: plain(200, "application/json", b'{"results":[]}'),
        "/api/user/keys/a-b_c=": plain(200, "application/json", b"null"),
        "/api/me": plain(401, "application/json", b'{"error":"unauthorized"}'),
    }
    async with (
        ollama_script(answers) as node,
        running_gateway({"url": node.url, "name": "one"}) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        found = await client.post(f"{SEARCH}?x=%20y", content=b'{"query": "q"}')
        assert (found.status_code, found.json()) == (200, {"results": []})
        assert found.headers["x-sollol-node"] == "one"
        assert (await client.delete("/api/user/keys/a-b_c=")).content == b"null"
        signed_out = await client.post("/api/me")
        assert (signed_out.status_code, signed_out.json()) == (401, {"error": "unauthorized"})
        missing = await client.post("/api/signout")
        assert (missing.status_code, missing.text) == (404, "404 page not found")
        assert node.seen == [
            (SEARCH.encode() + b"?x=%20y", b'{"query": "q"}'),
            (b"/api/user/keys/a-b_c=", b""),
            (b"/api/me", b""),
            (b"/api/signout", b""),
        ]


async def test_settings_say_which_node_has_the_account() -> None:
    async with a_fleet(EMPTY, EMPTY, fleet={"cloud_node": "b"}) as fleet:
        assert (await fleet.client.get("/api/status")).headers["x-sollol-node"] == "b"
        await fleet.nodes[1].stop_listening()
        fleet.nodes[1].reset_connections()
        await fleet.running.wait_healthy(1)
        refused = await fleet.post("/api/me", {})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] in ("5", "6")
        assert "fleet.cloud_node (b)" in refused.json()["error"]
        assert fleet.asked("/api/me") == ""


async def test_without_a_node_the_cloud_is_off() -> None:
    async with running_gateway() as running, httpx.AsyncClient(base_url=running.url) as client:
        status = await client.get("/api/status")
        assert (status.status_code, status.text) == (
            200, '{"cloud":{"disabled":true,"source":"none"}}'
        )  # fmt: skip
        assert status.headers["content-type"] == "application/json; charset=utf-8"
        refused = await client.post(SEARCH, json={"query": "q"})
        assert (refused.status_code, refused.json()) == (503, {"error": "no Ollama node is up"})


async def test_nodes_that_are_too_old_do_not_have_the_route() -> None:
    async with a_fleet(SimConfig(version="0.16.1")) as fleet:
        assert (await fleet.post(SEARCH, {"query": "q"})).status_code == 404
        assert fleet.asked(SEARCH) == ""
        assert (await fleet.client.get("/api/status")).json()["cloud"]["source"] == "none"


async def test_a_client_that_leaves_ends_the_request() -> None:
    async with a_fleet(EMPTY) as fleet:
        fleet.nodes[0].set_fault(Fault("hang_before_head", path="/api/me"))
        asking = asyncio.ensure_future(fleet.post("/api/me", {}))
        await wait_for(lambda: fleet.asked("/api/me") == "a")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (record,) = [r for r in fleet.nodes[0].requests if r.path == "/api/me"]
        await wait_for(lambda: record.outcome != "running")


@pytest.mark.parametrize("kind", ["cut_after_n_records", "garbage", "close_before_head"])
async def test_a_node_that_fails_is_told_as_such(kind: FaultKind) -> None:
    async with a_fleet(EMPTY) as fleet:
        fleet.nodes[0].set_fault(Fault(kind, path="/api/me"))
        answer = await fleet.post("/api/me", {})
        assert (answer.status_code, list(answer.json())) == (502, ["error"])
        assert fleet.asked("/api/me") == "a"


async def test_a_node_that_cannot_be_reached_is_down_for_the_next() -> None:
    async with a_fleet(EMPTY, EMPTY, probe={"interval_s": 60}) as fleet:
        await fleet.nodes[0].stop_listening()
        fleet.nodes[0].reset_connections()
        first = await fleet.post("/api/me", {})
        assert (first.status_code, first.headers["x-sollol-node"]) == (502, "a")
        assert (await fleet.post("/api/me", {})).headers["x-sollol-node"] == "b"


async def test_log_and_metrics_tell_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    async with a_fleet(EMPTY) as fleet:
        answer = await fleet.client.request(
            "DELETE", "/api/user/keys/c2VjcmV0", headers={"X-Request-Id": "mine"}
        )
        assert (answer.status_code, answer.headers["x-sollol-request-id"]) == (401, "mine")
        metrics = (await fleet.client.get("/metrics")).text
        assert 'sollol_requests_total{node="a",outcome="ok",task="cloud"} 1.0' in metrics
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "request_done" in line]
    for field in ("request_id=mine", "path=/api/user/keys/ ", "node=a", "status=401", "outcome=ok"):
        assert field in line
    assert "c2VjcmV0" not in line
