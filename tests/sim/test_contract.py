"""A real Ollama's recorded answers, asked of the gateway over an empty node."""

import json
import re
from pathlib import Path

import httpx
import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.node import SimNode
from tests.fleets import a_fleet
from tests.gateways import running_gateway

pytestmark = pytest.mark.sim

FOLDER = Path(__file__).parents[1] / "contract"
ENTRIES = json.loads((FOLDER / "golden_errors.json").read_text(encoding="utf-8"))["entries"]
CHANGES = json.loads((FOLDER / "golden_manage.json").read_text(encoding="utf-8"))["entries"]

ROUTING = [
    # method, path, status, headers that matter, body
    ("GET", "/", 200, {"content-type": "text/plain; charset=utf-8"}, b"Ollama is running"),
    ("HEAD", "/", 200, {"content-length": "17"}, b""),
    ("POST", "/", 405, {"allow": "HEAD, GET", "content-type": "text/plain"}, b"405 method not allowed"),
    ("GET", "/api/tags", 200, {"content-type": "application/json; charset=utf-8"}, b'{"models":[]}'),
    ("HEAD", "/api/tags", 200, {"content-length": "13"}, b""),
    ("HEAD", "/api/ps", 405, {"allow": "GET"}, b""),
    ("GET", "/api/ps", 200, {}, b'{"models":[]}'),
    ("GET", "/v1/models", 200, {"content-type": "application/json"}, b'{"object":"list","data":null}\n'),
    ("GET", "/v1/models/ns%2Fnope", 404, {"content-type": "text/plain"}, b"404 page not found"),
    ("GET", "/API/tags", 404, {"content-type": "text/plain"}, b"404 page not found"),
    ("OPTIONS", "/api/chat", 405, {"allow": "POST"}, b"405 method not allowed"),
    ("POST", "/v1/messages/count_tokens", 404, {}, b"404 page not found"),
    (
        "GET", "/v1/models/nope", 404, {"content-type": "application/json"},
        b'{"error":{"message":"model \'nope:latest\' not found","type":"not_found_error",'
        b'"param":null,"code":null}}\n',
    ),
    (
        "GET", "/api/tags/", 301,
        {"location": "/api/tags", "content-type": "text/html; charset=utf-8"},
        b'<a href="/api/tags">Moved Permanently</a>.\n\n',
    ),
    ("POST", "/api/chat/", 307, {"location": "/api/chat", "content-length": "0"}, b""),
]  # fmt: skip

LOCAL_PAGE = {"Origin": "http://localhost:3000"}
ASKING = {"Access-Control-Request-Method": "POST"}


async def test_refusals_are_those_of_a_real_ollama() -> None:
    async with (
        SimNode(SimConfig()) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        for entry in ENTRIES:
            answer = await client.post(entry["path"], content=entry["request"])
            got = (answer.status_code, answer.headers["content-type"], without_id(answer.text))
            expected = (entry["status"], entry["content_type"], without_id(entry["body"]))
            assert got == expected, entry["name"]


def without_id(body: str) -> str:
    """Return a body without the random id of Anthropic's errors."""
    return re.sub(r"req_[0-9a-f]{24}", "req_", body)


@pytest.mark.parametrize("count", [1, 2])
async def test_changes_are_answered_as_by_a_real_ollama(count: int) -> None:
    async with a_fleet(*[SimConfig()] * count) as fleet:
        for entry in CHANGES:
            answer = await fleet.client.request(
                entry["method"], entry["path"], content=entry["request"]
            )
            got = (answer.status_code, answer.headers.get("content-type", ""), answer.text)
            assert got == (entry["status"], entry["content_type"], entry["body"]), entry["name"]
            assert answer.headers.get("allow", "") == entry["allow"]
            if entry["method"] == "HEAD" and entry["content_length"]:
                assert answer.headers["content-length"] == entry["content_length"], entry["name"]


async def test_routing_is_that_of_a_real_ollama() -> None:
    async with (
        SimNode(SimConfig()) as node,
        running_gateway(node.url) as running,
        httpx.AsyncClient(base_url=running.url) as client,
    ):
        for method, path, status, headers, body in ROUTING:
            answer = await client.request(method, path)
            assert (answer.status_code, answer.content) == (status, body), (method, path)
            assert {name: answer.headers.get(name) for name in headers} == headers, (method, path)


async def test_pages_are_let_in_as_by_a_real_ollama() -> None:
    async with running_gateway() as running, httpx.AsyncClient(base_url=running.url) as client:
        allowed = await client.get("/api/tags", headers=LOCAL_PAGE)
        assert allowed.headers["access-control-allow-origin"] == LOCAL_PAGE["Origin"]
        assert allowed.headers["vary"] == "Origin"
        asked = await client.options("/api/chat", headers=LOCAL_PAGE | ASKING)
        assert (asked.status_code, asked.headers["access-control-max-age"]) == (204, "43200")
        for method, headers in (("GET", {}), ("OPTIONS", ASKING)):
            evil = {"Origin": "http://evil.example"} | headers
            refused = await client.request(method, "/api/chat", headers=evil)
            assert (refused.status_code, refused.content) == (403, b"")
        stranger = await client.get("/api/tags", headers={"Host": "evil.example"})
        assert (stranger.status_code, stranger.content) == (403, b"")
