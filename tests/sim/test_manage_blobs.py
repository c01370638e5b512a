"""Blobs over several nodes: streamed to all at once, and models made where they are."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.faults import Fault
from tests.fleets import MODEL, Fleet, a_fleet, records
from tests.gateways import wait_for

pytestmark = pytest.mark.sim

MIB = 1024 * 1024
EMPTY = SimConfig()
DATA = b"GGUF" + bytes(range(256)) * 8192
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
BLOB = f"/api/blobs/{DIGEST}"


async def pieces(data: bytes = DATA, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def held(fleet: Fleet) -> list[bool]:
    return [DIGEST in node.state.blobs for node in fleet.nodes]


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_blob_goes_to_all_nodes_at_once(is_chunked: bool) -> None:
    async with a_fleet(EMPTY, EMPTY, EMPTY) as fleet:
        missing = await fleet.client.head(BLOB)
        assert (missing.status_code, missing.headers["content-length"]) == (404, "102")
        answer = await fleet.client.post(BLOB, content=pieces() if is_chunked else DATA)
        assert (answer.status_code, answer.content) == (201, b"")
        assert answer.headers["x-sollol-nodes"] == "a,b,c"
        assert held(fleet) == [True, True, True]
        assert [node.state.blob_bytes_received for node in fleet.nodes] == [len(DATA)] * 3
        assert (await fleet.client.head(BLOB)).status_code == 200
        seen = [r.headers for n in fleet.nodes for r in n.requests if r.method == "POST"]
        assert all(("content-length" in headers) is not is_chunked for headers in seen)


async def test_an_empty_blob_is_one_too() -> None:
    digest = "sha256:" + hashlib.sha256(b"").hexdigest()
    async with a_fleet(EMPTY, EMPTY) as fleet:
        assert (await fleet.client.post(f"/api/blobs/{digest}")).status_code == 201
        assert all(digest in node.state.blobs for node in fleet.nodes)


async def test_a_node_that_has_it_takes_none_of_it_and_the_others_get_it() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        await fleet.client.post(BLOB, content=DATA, headers={"X-Sollol-Nodes": "a"})
        assert held(fleet) == [True, False]
        assert (await fleet.client.head(BLOB)).status_code == 404
        answer = await fleet.client.post(BLOB, content=pieces())
        assert answer.status_code == 201
        assert held(fleet) == [True, True]
        assert fleet.nodes[0].state.blob_bytes_received == len(DATA)


async def test_a_blob_that_all_have_is_answered_before_its_end() -> None:
    forever = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield DATA
        await forever.wait()

    async with a_fleet(EMPTY, EMPTY) as fleet:
        await fleet.client.post(BLOB, content=DATA)
        host, port = fleet.running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**10}\r\n\r\n"
        writer.write(head.encode() + DATA)
        assert b" 200 " in await reader.readline()
        writer.close()


async def test_the_slowest_node_paces_the_client() -> None:
    slow = SimConfig(blob_bytes_per_s=128 * MIB)
    data = bytes(64 * MIB)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    ahead: list[int] = []
    sent = 0

    async def counted(fleet: Fleet) -> AsyncIterator[bytes]:
        nonlocal sent
        async for piece in pieces(data, MIB):
            yield piece
            sent += len(piece)
            received = [node.state.blob_bytes_received for node in fleet.nodes]
            ahead.append(sent - min(received))

    async with a_fleet(EMPTY, slow) as fleet:
        answer = await fleet.client.post(f"/api/blobs/{digest}", content=counted(fleet))
        assert answer.status_code == 201
        # What is under way: the sockets' buffers on both sides of the gateway, and little in it.
        assert max(ahead) < 32 * MIB


async def test_a_node_that_fails_is_named_and_does_not_hold_up_the_others() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        full = Fault("status", path="/api/blobs/*", status=500, message="disk full")
        fleet.nodes[1].set_fault(full)
        answer = await fleet.client.post(BLOB, content=pieces())
        assert answer.status_code == 201
        assert answer.headers["x-sollol-failed-nodes"] == "b"
        assert held(fleet) == [True, False]
        made = await fleet.post("/api/create", {"model": "m", "files": {"m.gguf": DIGEST}})
        assert records(made)[-1] == {"status": "success"}
        assert made.headers["x-sollol-nodes"] == "a"
        assert fleet.having("m") == "a"


async def test_a_node_that_redirects_has_nothing_and_did_nothing() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        fleet.nodes[1].set_fault(Fault("status", path="/api/*", status=302, message="log in"))
        assert (await fleet.client.head(BLOB, headers={"X-Sollol-Nodes": "b"})).status_code == 404
        answer = await fleet.client.post(BLOB, content=pieces())
        assert answer.status_code == 201
        assert answer.headers["x-sollol-failed-nodes"] == "b"
        copied = await fleet.post("/api/copy", {"source": "x", "destination": "y"}, "a,b")
        assert copied.status_code == 500


async def test_a_model_of_endless_blobs_costs_no_more_than_one_question_a_node() -> None:
    files = {str(n): f"sha256:{n:064x}" for n in range(2000)}
    async with a_fleet(EMPTY, EMPTY) as fleet:
        answer = await fleet.post("/api/create", {"model": "m", "files": files})
        assert "error" in records(answer)[-1]
        asked = [sum(r.method == "HEAD" for r in node.requests) for node in fleet.nodes]
        assert asked == [1, 1]


async def test_over_a_slow_a_failing_and_a_whole_node() -> None:
    slow = SimConfig(blob_bytes_per_s=20 * MIB)
    async with a_fleet(EMPTY, EMPTY, slow) as fleet:
        full = Fault("status", path="/api/blobs/*", status=500, message="disk full")
        fleet.nodes[1].set_fault(full)
        answer = await fleet.client.post(BLOB, content=pieces())
        assert (answer.status_code, answer.headers["x-sollol-failed-nodes"]) == (201, "b")
        assert held(fleet) == [True, False, True]
        fleet.nodes[1].clear_faults()
        assert (await fleet.client.head(BLOB)).status_code == 404
        again = await fleet.client.post(BLOB, content=pieces())
        assert again.status_code == 201
        assert "x-sollol-failed-nodes" not in again.headers
        assert held(fleet) == [True, True, True]
        assert (await fleet.client.head(BLOB)).status_code == 200


async def test_a_node_that_is_reset_in_the_middle_is_dropped() -> None:
    config = SimConfig(blob_bytes_per_s=200 * MIB)
    data = bytes(8 * MIB)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    async with a_fleet(config, config) as fleet:

        async def with_reset() -> AsyncIterator[bytes]:
            async for piece in pieces(data):
                yield piece
                if fleet.nodes[1].state.blob_bytes_received > MIB:
                    await fleet.nodes[1].stop_listening()
                    fleet.nodes[1].reset_connections()

        answer = await fleet.client.post(f"/api/blobs/{digest}", content=with_reset())
        assert answer.status_code == 201
        assert answer.headers["x-sollol-failed-nodes"] == "b"
        assert digest in fleet.nodes[0].state.blobs


async def test_when_no_node_takes_it_that_is_said() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        wrong = f"/api/blobs/sha256:{'0' * 64}"
        mismatch = await fleet.client.post(wrong, content=DATA)
        assert mismatch.status_code == 400
        expected = f'digest mismatch, expected "sha256:{"0" * 64}", got "{DIGEST}"'
        assert mismatch.json() == {"error": expected}
        fleet.nodes[0].set_fault(Fault("status", path="/api/blobs/*", status=500, message="full"))
        fleet.nodes[1].set_fault(Fault("status", path="/api/blobs/*", status=500, message="dead"))
        other = f"/api/blobs/sha256:{'1' * 64}"
        failed = await fleet.client.post(other, content=DATA)
        assert failed.status_code == 500
        assert failed.json() == {"error": "node a: full; node b: dead"}
        bad = await fleet.client.post("/api/blobs/xyz", content=b"hello")
        assert (bad.status_code, bad.json()) == (400, {"error": "invalid digest format"})
        assert (await fleet.client.head("/api/blobs/xyz")).status_code == 400
        got = await fleet.client.get(BLOB)
        assert (got.status_code, got.headers["allow"]) == (405, "HEAD, POST")


async def test_a_client_that_leaves_in_the_middle_leaves_nothing() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        host, port = fleet.running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(DATA)}\r\n\r\n"
        writer.write(head.encode() + DATA[:MIB])
        await wait_for(lambda: all(n.state.blob_bytes_received == MIB for n in fleet.nodes))
        writer.close()
        await wait_for(lambda: all(n.state.blob_bytes_received == MIB for n in fleet.nodes))
        await wait_for(lambda: not fleet.running.server.server_state.tasks)
        assert held(fleet) == [False, False]


async def test_a_client_that_leaves_while_a_node_is_slow_is_noticed() -> None:
    slow = SimConfig(blob_bytes_per_s=30 * MIB)
    async with a_fleet(EMPTY, slow) as fleet:
        host, port = fleet.running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**9}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(8):
            writer.write(bytes(MIB))
        await wait_for(lambda: fleet.nodes[1].state.blob_bytes_received > MIB)
        writer.transport.abort()
        await wait_for(lambda: not fleet.running.server.server_state.tasks)
        assert held(fleet) == [False, False]


async def test_a_client_that_stops_sending_is_not_waited_for() -> None:
    async with a_fleet(EMPTY, server={"body_stall_timeout_s": 0.2}) as fleet:
        host, port = fleet.running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(DATA)}\r\n\r\n"
        writer.write(head.encode() + DATA[:MIB])
        assert b" 408 " in await reader.readline()
        await reader.readuntil(b"no more of the request body came for 0.2 s")
        writer.close()


async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with a_fleet(EMPTY) as fleet:
        host, port = fleet.running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {BLOB} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(DATA)}\r\n"
        writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(DATA)
        assert b" 201 " in await reader.readline()
        writer.close()
    assert held(fleet) == [True]


async def test_a_blob_is_not_bounded_like_a_body() -> None:
    async with a_fleet(EMPTY, server={"max_body_bytes": 1000}) as fleet:
        assert (await fleet.client.post(BLOB, content=DATA)).status_code == 201


async def test_with_one_node_for_new_models_all_blobs_go_there() -> None:
    async with a_fleet(EMPTY, EMPTY, EMPTY, fleet={"pull_to": "one"}) as fleet:
        digests = []
        for number in range(4):
            data = b"GGUF" + bytes([number])
            digests.append("sha256:" + hashlib.sha256(data).hexdigest())
            await fleet.client.head(f"/api/blobs/{digests[-1]}")
            await fleet.client.post(f"/api/blobs/{digests[-1]}", content=data)
        assert sum(bool(node.state.blobs) for node in fleet.nodes) == 1
        files = {f"{place}.gguf": digest for place, digest in enumerate(digests)}
        made = await fleet.post("/api/create", {"model": "m", "files": files, "stream": False})
        assert made.json() == {"status": "success"}


async def test_a_model_is_made_where_its_blobs_are_although_nobody_told_the_gateway() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        async with httpx.AsyncClient(base_url=fleet.nodes[1].url) as direct:
            await direct.post(BLOB, content=DATA)
        made = await fleet.post("/api/create", {"model": "m", "files": {"m.gguf": DIGEST}})
        assert records(made)[-1] == {"status": "success"}
        assert fleet.having("m") == "b"


async def test_a_model_whose_blob_no_node_has_is_refused_in_ollamas_words() -> None:
    async with a_fleet(EMPTY, EMPTY) as fleet:
        made = await fleet.post("/api/create", {"model": "m", "files": {"m.gguf": DIGEST}})
        path = f"/home/ollama/.ollama/models/blobs/{DIGEST.replace(':', '-')}"
        assert records(made) == [
            {"status": "parsing GGUF"},
            {"error": f"open {path}: no such file or directory"},
        ]


async def test_an_adapter_meets_its_model() -> None:
    holder = SimConfig(models=(MODEL, SimModel("other")))
    async with a_fleet(EMPTY, holder) as fleet:
        await fleet.client.post(BLOB, content=DATA)
        body = {"model": "tuned", "from": MODEL.name, "adapters": {"a.gguf": DIGEST}}
        made = await fleet.post("/api/create", body)
        assert records(made)[-1] == {"status": "success"}
        assert fleet.having("tuned") == "b"
