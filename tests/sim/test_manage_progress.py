"""Progress of many nodes on its way to a client: slow readers, hanging nodes, clients that leave."""

import asyncio
import json
import socket

import httpx
import pytest

from sollol.bench.sim.config import SimConfig
from sollol.bench.sim.faults import Fault
from sollol.wire.progress import MAX_LINES
from tests.fleets import a_fleet, records
from tests.gateways import running_gateway, wait_for
from tests.scripted_node import Peer, a_world

pytestmark = pytest.mark.sim

EMPTY = SimConfig()


async def test_a_node_that_hangs_is_given_up() -> None:
    async with a_fleet(EMPTY, EMPTY, fleet={"stall_timeout_s": 0.3}) as fleet:
        fleet.nodes[1].set_fault(Fault("hang_after_n_records", path="/api/pull", records=2))
        answer = await fleet.post("/api/pull", {"model": "x"})
        assert "sent nothing more of its answer for 0.3 s" in records(answer)[-1]["error"]
        assert fleet.having("x") == "a"


async def test_a_client_that_leaves_stops_all_nodes() -> None:
    slow = SimConfig(time_scale=1.0)
    async with a_fleet(slow, slow) as fleet:
        async with fleet.client.stream("POST", "/api/pull", json={"model": "x"}) as answer:
            await anext(answer.aiter_lines())
        await wait_for(lambda: all(n.in_flight == 0 for n in fleet.nodes))
        pulls = [r for n in fleet.nodes for r in n.requests if r.path == "/api/pull"]
        assert [pull.outcome for pull in pulls] == ["aborted", "aborted"]
        assert fleet.having("x") == ""


def answer_json(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


PROBED = {
    b"/api/version": answer_json(b'{"version":"0.33.0"}'),
    b"/api/tags": answer_json(b'{"models":[]}'),
    b"/api/ps": answer_json(b'{"models":[]}'),
}
STEPS = 15_000
LONG_STATUS = "pulling " + "x" * 3_900


class Flood:
    """An Ollama whose pull tells of thousands of steps of one layer, in long records, at full speed."""

    def __init__(self) -> None:
        self.is_through = asyncio.Event()

    async def serve(self, peer: Peer) -> None:
        while True:
            head, _ = await peer.request()
            path = head.split(b" ", 2)[1]
            if path in PROBED:
                await peer.send(PROBED[path])
                continue
            ndjson = b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            await peer.send(b"HTTP/1.1 200 OK\r\n" + ndjson)
            for step in range(1, STEPS + 1):
                record = {"status": LONG_STATUS, "digest": "d", "total": STEPS, "completed": step}
                line = json.dumps(record).encode() + b"\n"
                await peer.send(b"%x\r\n%b\r\n" % (len(line), line))
            self.is_through.set()
            line = b'{"status":"success"}\n'
            await peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(line), line))


async def ask_and_read_nothing(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    body = b'{"model":"x"}'
    head = b"POST /api/pull HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    return reader, writer


async def test_a_slow_reader_holds_up_no_node_and_gets_the_latest() -> None:
    flood = Flood()
    async with a_world() as world:
        node = await world.node(flood.serve)
        async with running_gateway(f"http://127.0.0.1:{node.port}") as running:
            reader, writer = await ask_and_read_nothing(running.url)
            async with asyncio.timeout(10):
                await flood.is_through.wait()
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += await reader.read(1 << 20)
            writer.close()
    lines = [line for line in received.splitlines() if line.startswith(b"{")]
    told = [json.loads(line) for line in lines]
    assert told[-1] == {"status": "success"}
    assert told[-2]["completed"] == STEPS
    assert len(told) < STEPS / 3, "60 MB would have been kept for a client that does not read"


async def test_a_node_that_makes_up_steps_fails_alone() -> None:
    steps = b"".join(b'{"status":"step %d"}\n' % number for number in range(MAX_LINES + 1))
    good = [
        b'{"status":"pulling","digest":"d","total":9,"completed":%d}\n' % n for n in range(1, 10)
    ]
    has_babbled = asyncio.Event()

    async def pull(peer: Peer, *pieces: bytes) -> None:
        ndjson = b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        await peer.send(b"HTTP/1.1 200 OK\r\n" + ndjson)
        for piece in pieces:
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def babbler(peer: Peer) -> None:
        while (path := (await peer.request())[0].split(b" ", 2)[1]) in PROBED:
            await peer.send(PROBED[path])
        await pull(peer, steps)
        await peer.wait_gone()
        has_babbled.set()

    async def worker(peer: Peer) -> None:
        while (path := (await peer.request())[0].split(b" ", 2)[1]) in PROBED:
            await peer.send(PROBED[path])
        await has_babbled.wait()
        await pull(peer, *good, b'{"status":"success"}\n')
        await peer.wait_gone()

    async with a_world() as world:
        nodes = [await world.node(babbler), await world.node(worker)]
        listed = [
            {"url": f"http://127.0.0.1:{node.port}", "name": name}
            for node, name in zip(nodes, ("bad", "good"), strict=True)
        ]
        async with (
            running_gateway(*listed, probe={"interval_s": 60}) as running,
            httpx.AsyncClient(base_url=running.url, timeout=20) as client,
        ):
            answer = await client.post("/api/pull", json={"model": "x"})
    error = records(answer)[-1]["error"]
    assert error.startswith("node bad: the node told of more than")
    assert error.endswith("; succeeded on good")


async def test_a_client_that_never_reads_is_given_up() -> None:
    flood = Flood()
    async with a_world() as world:
        node = await world.node(flood.serve)
        url = f"http://127.0.0.1:{node.port}"
        async with running_gateway(url, server={"write_timeout_s": 0.3}) as running:
            reader, writer = await ask_and_read_nothing(running.url)
            await wait_for(lambda: bool(running.server.server_state.tasks))
            await wait_for(lambda: not running.server.server_state.tasks)
            writer.close()
            del reader


async def test_a_gateway_that_stops_ends_the_progress_in_an_error() -> None:
    slow = SimConfig(time_scale=1.0)
    async with a_fleet(slow, server={"shutdown_grace_s": 0}) as fleet:
        async with fleet.client.stream("POST", "/api/pull", json={"model": "x"}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            fleet.running.server.stop()
            rest = [line async for line in lines]
        assert json.loads(rest[-1]) == {"error": "the gateway is shutting down"}
