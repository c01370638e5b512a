"""What a simulated node answers, byte for byte, next to what a real one was seen to answer."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import SimNode
from sollol.wire.kinds import BODY_KINDS, OPTIONAL
from tests.contract.golden import Entry, make_answer, read_differences, read_entries
from tests.raw_http import RawAnswer, render, talk

pytestmark = pytest.mark.sim

ERRORS = [
    entry
    for entry in read_entries()
    if entry.method == "POST"
    and entry.path in BODY_KINDS
    and BODY_KINDS[entry.path] not in OPTIONAL
    and entry.name not in read_differences()
]
TEXT = ("Content-Type", "text/plain")
JSON = ("Content-Type", "application/json; charset=utf-8")
ZEROS = "0" * 64


@pytest.fixture
async def empty() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(version="0.0.0")) as made:
        yield made


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    models = (SimModel("a"), SimModel("me/b:7b", capabilities=("completion", "vision")))
    async with SimNode(SimConfig(models=models)) as made:
        yield made


async def ask(
    node: SimNode,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> RawAnswer:
    fields = {"Connection": "close", **(headers or {})}
    return await talk(node.port, render(method, path, body, fields))


def own_headers(answer: RawAnswer) -> list[tuple[str, str]]:
    return [pair for pair in answer.headers if pair[0] not in ("Date", "Connection")]


@pytest.mark.parametrize("entry", ERRORS, ids=lambda entry: entry.name)
async def test_errors_are_those_of_a_real_node(empty: SimNode, entry: Entry) -> None:
    answer = await ask(empty, "POST", entry.path, entry.request)
    assert make_answer(answer.status, answer.headers, answer.body.decode()) == entry.answer


@pytest.mark.parametrize(
    ("method", "path", "status", "headers", "body"),
    [
        ("GET", "/", 200, [("Content-Type", "text/plain; charset=utf-8")], "Ollama is running"),
        ("HEAD", "/", 200, [("Content-Type", "text/plain; charset=utf-8")], ""),
        ("POST", "/", 405, [("Allow", "HEAD, GET"), TEXT], "405 method not allowed"),
        ("GET", "/api/version", 200, [JSON], '{"version":"0.0.0"}'),
        ("GET", "/api/tags", 200, [JSON], '{"models":[]}'),
        ("HEAD", "/api/ps", 405, [("Allow", "GET"), TEXT], ""),
        ("GET", "/nope", 404, [TEXT], "404 page not found"),
        ("POST", "/v1/nope", 404, [TEXT], "404 page not found"),
        ("POST", "/v1/messages/count_tokens", 404, [TEXT], "404 page not found"),
        ("GET", "/v1/responses/resp_1", 404, [TEXT], "404 page not found"),
        ("GET", "/API/tags", 404, [TEXT], "404 page not found"),
        ("GET", "/api/chat", 405, [("Allow", "POST"), TEXT], "405 method not allowed"),
        ("POST", "/api/delete", 405, [("Allow", "DELETE"), TEXT], "405 method not allowed"),
        (
            "GET",
            f"/api/blobs/sha256:{ZEROS}",
            405,
            [("Allow", "HEAD, POST"), TEXT],
            "405 method not allowed",
        ),
        ("GET", "/v1/models/ns/nope", 404, [TEXT], "404 page not found"),
        ("GET", "/v1/models/ns%2Fnope", 404, [TEXT], "404 page not found"),
        ("POST", "/api/chat/", 307, [("Location", "/api/chat")], ""),
        (
            "GET",
            "//api/tags",
            301,
            [("Content-Type", "text/html; charset=utf-8"), ("Location", "/api/tags")],
            '<a href="/api/tags">Moved Permanently</a>.\n\n',
        ),
        (
            "GET",
            "/v1/models",
            200,
            [("Content-Type", "application/json")],
            '{"object":"list","data":null}\n',
        ),
        (
            "GET",
            "/v1/models/nope",
            404,
            [("Content-Type", "application/json")],
            '{"error":{"message":"model \'nope:latest\' not found","type":"not_found_error",'
            '"param":null,"code":null}}\n',
        ),
    ],
)
async def test_plain_routes(
    empty: SimNode, method: str, path: str, status: int, headers: list[tuple[str, str]], body: str
) -> None:
    answer = await ask(empty, method, path)
    assert (answer.status, answer.body.decode()) == (status, body)
    length = dict(answer.headers)["Content-Length"]
    assert own_headers(answer) == [*headers, ("Content-Length", length)]
    if method != "HEAD":
        assert int(length) == len(body)


async def test_foreign_origins_and_hosts_are_forbidden(empty: SimNode) -> None:
    for fields in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        answer = await ask(empty, "GET", "/api/tags", headers=fields)
        assert (answer.status, own_headers(answer)) == (403, [("Content-Length", "0")])
    for host in ("node1.local", "10.1.2.3:11434", "localhost:1", "[::1]:11434"):
        assert (await ask(empty, "GET", "/api/tags", headers={"Host": host})).status == 200
    assert empty.requests[0].headers["origin"] == "http://evil.example"


async def test_a_local_origin_is_let_in(empty: SimNode) -> None:
    origin = "http://localhost:3000"
    answer = await ask(empty, "GET", "/api/tags", headers={"Origin": origin})
    assert own_headers(answer) == [
        ("Access-Control-Allow-Origin", origin),
        JSON,
        ("Vary", "Origin"),
        ("Content-Length", "13"),
    ]
    preflight = await ask(empty, "OPTIONS", "/api/chat", headers={"Origin": origin})
    assert preflight.status == 204
    assert dict(preflight.headers)["Access-Control-Max-Age"] == "43200"
    assert (await ask(empty, "OPTIONS", "/api/chat")).status == 405


async def test_bodies_are_read_as_go_reads_them(node: SimNode) -> None:
    for text in ('{"MODEL":"a"}', '{"model":"x","model":"a"} and more', '{"model":"a","new":1}'):
        answer = await ask(node, "POST", "/api/chat", text.encode())
        assert (answer.status, json.loads(answer.body)["model"]) == (200, "a")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [1]},
        {"messages": ["hi"]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]},
        {"messages": [{"role": "user", "content": "x", "images": [1]}]},
        {"messages": [{"content": [{"image_url": 1}]}]},
        {"model": 1},
        {"options": 1},
    ],
)
async def test_fields_of_a_wrong_type_do_no_harm(
    node: SimNode, path: str, fields: dict[str, Any]
) -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}]} | fields
    answer = await ask(node, "POST", path, json.dumps(body).encode())
    assert answer.status in (200, 400)
    assert json.loads(
        answer.chunks[0] if answer.status == 200 and path == "/api/chat" else answer.body
    )


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
async def test_a_number_that_no_float_holds_is_refused(node: SimNode, number: str) -> None:
    body = b'{"model":"a","options":{"num_predict":%b}}' % number.encode()
    answer = await ask(node, "POST", "/api/generate", body)
    assert answer.status == 400
    assert json.loads(answer.body) == {
        "error": f"json: cannot unmarshal number {number} into Go struct field "
        "GenerateRequest.options of type float64"
    }


async def test_inventories(node: SimNode) -> None:
    tags = json.loads((await ask(node, "GET", "/api/tags")).body)["models"]
    assert [model["name"] for model in tags] == ["a:latest", "me/b:7b"]
    assert len(tags[0]["digest"]) == 64
    assert tags[1]["capabilities"] == ["completion", "vision"]
    listed = json.loads((await ask(node, "GET", "/v1/models")).body)["data"]
    assert [entry["id"] for entry in listed] == ["a:latest", "me/b:7b"]
    one = json.loads((await ask(node, "GET", "/v1/models/a")).body)
    assert one["id"] == "a:latest"
    shown = json.loads((await ask(node, "POST", "/api/show", b'{"model":"A"}')).body)
    assert shown["model_info"]["llama.context_length"] == 8192
    unknown = await ask(node, "POST", "/api/show", b'{"model":"nope"}')
    assert unknown.body == b'{"error":"model \'nope:latest\' not found"}'


async def test_http_1_0_gets_no_chunks(node: SimNode) -> None:
    body = b'{"model":"a","prompt":"x","options":{"num_predict":2}}'
    request = render("POST", "/api/generate", body).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = await talk(node.port, request)
    assert "Transfer-Encoding" not in dict(answer.headers)
    assert [json.loads(line)["done"] for line in answer.body.splitlines()] == [False, False, True]


async def test_pipelined_requests_are_answered_in_order(node: SimNode) -> None:
    requests = render("GET", "/api/version") * 2 + render(
        "GET", "/", headers={"Connection": "close"}
    )
    answer = await talk(node.port, requests)
    everything = answer.head + answer.body
    assert everything.count(b'{"version":"0.33.0"}') == 2
    assert everything.endswith(b"Ollama is running")


async def test_what_is_not_http_is_a_bad_request(node: SimNode) -> None:
    answer = await talk(node.port, b"what?\r\n\r\n")
    assert (answer.status, answer.ending) == (400, "eof")


async def test_copy_and_delete(node: SimNode) -> None:
    done = await ask(node, "POST", "/api/copy", b'{"source":"a","destination":"alias"}')
    assert (done.status, own_headers(done)) == (200, [("Content-Length", "0")])
    await ask(node, "POST", "/api/generate", b'{"model":"a"}')
    await ask(node, "POST", "/api/generate", b'{"model":"alias"}')
    assert len(node.loads) == 1  # an alias shares the runner
    ps = json.loads((await ask(node, "GET", "/api/ps")).body)["models"]
    assert [model["name"] for model in ps] == ["a:latest"]
    assert (await ask(node, "DELETE", "/api/delete", b'{"model":"a"}')).status == 200
    gone = await ask(node, "DELETE", "/api/delete", b'{"model":"a"}')
    assert (gone.status, gone.body) == (404, b'{"error":"model \'a\' not found"}')
    assert (await ask(node, "POST", "/api/generate", b'{"model":"alias"}')).status == 200


async def test_pull_tells_its_progress_and_brings_the_model(node: SimNode) -> None:
    records = (await ask(node, "POST", "/api/pull", b'{"model":"qwen3:8b"}')).records
    assert records[0] == {"status": "pulling manifest"}
    assert records[-1] == {"status": "success"}
    assert any(record.get("completed") == record.get("total") for record in records[1:])
    assert (await ask(node, "POST", "/api/generate", b'{"model":"qwen3:8b"}')).status == 200
    whole = await ask(node, "POST", "/api/pull", b'{"model":"phi4","stream":false}')
    assert whole.body == b'{"status":"success"}'
    assert ("Content-Type", "application/json") in whole.headers


async def test_pull_of_an_unknown_model() -> None:
    async with SimNode(SimConfig(registry=(SimModel("known"),))) as node:
        records = (await ask(node, "POST", "/api/pull", b'{"model":"nope"}')).records
        assert records[-1] == {"error": "pull model manifest: file does not exist"}
        whole = await ask(node, "POST", "/api/pull", b'{"model":"nope","stream":false}')
        assert whole.status == 500
        records = (await ask(node, "POST", "/api/pull", b'{"model":"KNOWN"}')).records
        assert records[-1] == {"status": "success"}


async def test_blobs(node: SimNode) -> None:
    digest = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    path = f"/api/blobs/{digest}"
    assert (await ask(node, "HEAD", path)).status == 404
    wrong = await ask(node, "POST", f"/api/blobs/sha256:{ZEROS}", b"hello")
    assert json.loads(wrong.body)["error"].startswith("digest mismatch, expected")
    assert (await ask(node, "POST", path, b"hello")).status == 200  # kept under its true digest
    found = await ask(node, "HEAD", path)
    assert (found.status, own_headers(found)) == (200, [])
    assert node.state.blob_bytes_received == 10
    assert (await ask(node, "POST", "/api/blobs/xyz", b"hello")).status == 400


async def test_a_new_blob_may_come_in_chunks(node: SimNode) -> None:
    path = "/api/blobs/sha256-" + hashlib.sha256(b"hello world").hexdigest()
    chunked = {"Transfer-Encoding": "chunked", "Connection": "close"}
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in chunked.items())]
    head = "\r\n".join([*lines, "", ""]).encode()
    answer = await talk(node.port, head + b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n")
    assert (answer.status, own_headers(answer)) == (201, [("Content-Length", "0")])


async def test_a_known_blob_is_answered_before_its_body(node: SimNode) -> None:
    digest = "sha256:" + hashlib.sha256(b"").hexdigest()
    node.state.blobs.add(digest)
    head = render("POST", f"/api/blobs/{digest}", headers={"Content-Length": "300000000"})
    answer = await talk(node.port, head + b"x" * 1000)
    assert answer.status == 200
    assert dict(answer.headers)["Connection"] == "close"
    assert node.requests[0].outcome == "completed"


async def test_expect_continue(node: SimNode) -> None:
    fields = {"Expect": "100-continue", "Connection": "close"}
    answer = await talk(node.port, render("POST", "/api/generate", b'{"model":"a"}', fields))
    assert answer.head == b"HTTP/1.1 100 Continue"
    assert answer.body.startswith(b"HTTP/1.1 200 OK")
