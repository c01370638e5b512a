"""Each fault of the proxy as a client sees it on the socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from sollol.bench.faults.kinds import TcpFault, TcpFaultKind
from sollol.bench.faults.proxy import FaultProxy
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import Fault, SimNode
from tests.raw_http import RawAnswer, render, talk, wait_until

pytestmark = pytest.mark.sim

QUIET_S = 0.2


@pytest.fixture
async def node() -> AsyncIterator[SimNode]:
    async with SimNode(SimConfig(models=(SimModel("a"),))) as made:
        yield made


@pytest.fixture
async def proxy(node: SimNode) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(node.port) as made:
        yield made


def chat(*, stream: bool = True, close: bool = True) -> bytes:
    body = {
        "model": "a",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"num_predict": 6},
        "stream": stream,
    }
    headers = {"Connection": "close"} if close else {}
    return render("POST", "/api/chat", json.dumps(body).encode(), headers)


async def ask(proxy: FaultProxy, *, stream: bool = True, quiet_s: float = 5.0) -> RawAnswer:
    return await talk(proxy.port, chat(stream=stream), quiet_s=quiet_s)


async def is_well(proxy: FaultProxy) -> bool:
    answer = await ask(proxy)
    return answer.status == 200 and answer.records[-1]["done"] is True


@pytest.mark.parametrize("stream", [True, False])
async def test_without_a_fault_an_answer_is_as_the_node_gave_it(
    node: SimNode, proxy: FaultProxy, stream: bool
) -> None:
    through = await ask(proxy, stream=stream)
    straight = await talk(node.port, chat(stream=stream))
    assert through.head.split(b"\r\nDate")[0] == straight.head.split(b"\r\nDate")[0]
    assert len(through.chunks if stream else through.body) > 6
    assert proxy.struck == 0


async def test_a_connection_carries_many_requests_also_without_a_length(proxy: FaultProxy) -> None:
    chunked = {"Transfer-Encoding": "chunked"}
    post = render("POST", "/api/show", headers=chunked).replace(b"Content-Length: 0\r\n", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    for request in (chat(stream=False, close=False), post + b'd\r\n{"model":"a"}\r\n0\r\n\r\n'):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
    writer.close()


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("close_on_accept", "reset|eof"),
        ("reset_before_head", "reset"),
        ("half_head", "open"),
        ("cut_in_head", "eof"),
    ],
)
async def test_no_whole_head_comes(proxy: FaultProxy, kind: TcpFaultKind, ending: str) -> None:
    await proxy.set_fault(TcpFault(kind, times=1))
    answer = await ask(proxy, quiet_s=QUIET_S if ending == "open" else 5.0)
    assert answer.ending in ending
    assert b"\r\n\r\n" not in answer.head
    assert bool(answer.head) == (kind in ("half_head", "cut_in_head"))
    assert proxy.struck == 1
    assert await is_well(proxy)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("reset_in_piece", "reset"),
        ("cut_in_piece", "eof"),
        ("stall_in_piece", "open"),
        ("half_close", "eof"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_breaks_inside_a_piece(
    proxy: FaultProxy, kind: TcpFaultKind, ending: str, stream: bool
) -> None:
    await proxy.set_fault(TcpFault(kind))
    answer = await ask(proxy, stream=stream, quiet_s=QUIET_S if ending == "open" else 5.0)
    assert (answer.status, answer.ending) == (200, ending)
    if stream:
        assert len(answer.records) == 1
        assert answer.body.count(b"{") > 2  # half of the second record is there
    else:
        length = int(dict(answer.headers)["Content-Length"])
        assert length / 2 < len(answer.body) < length


async def test_a_client_that_leaves_ends_the_request_on_the_node(
    node: SimNode, proxy: FaultProxy
) -> None:
    node.set_fault(Fault("hang_before_head"))
    asked = asyncio.ensure_future(ask(proxy))
    await wait_until(lambda: node.in_flight == 1)
    asked.cancel()
    await wait_until(lambda: node.in_flight == 0 and node.open_connections == 0)


async def test_a_node_that_cuts_is_passed_on(node: SimNode, proxy: FaultProxy) -> None:
    node.set_fault(Fault("cut_after_n_records", records=2))
    answer = await ask(proxy)
    assert (len(answer.records), answer.ending) == (2, "eof")


async def test_a_full_backlog_takes_no_connection(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("backlog_full"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection("127.0.0.1", proxy.port), QUIET_S)
    await proxy.clear_fault()
    assert await is_well(proxy)


async def test_an_idle_connection_ends_with_its_next_request(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("close_on_reuse"))
    answer = await talk(proxy.port, chat(close=False), until=b"0\r\n\r\n")
    assert answer.status == 200
    assert proxy.struck == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(chat(close=False))
    await reader.readuntil(b"0\r\n\r\n")
    writer.write(chat(close=False))
    assert await reader.read() == b""
    assert proxy.struck == 1
    writer.close()


async def test_latency_and_interim_heads_do_no_harm(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("latency", delay_s=0.01))
    assert await is_well(proxy)
    await proxy.set_fault(TcpFault("interim_heads"))
    answer = await ask(proxy)
    assert (answer.status, b"103 Early Hints" in answer.body) == (100, True)
    assert answer.body.endswith(b"0\r\n\r\n")


async def test_a_huge_head(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("huge_head"))
    answer = await ask(proxy)
    assert len(answer.head) > 1 << 20
    assert answer.records[-1]["done"] is True


async def test_framing_that_is_none(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("bad_framing"))
    assert b"\r\nzz\r\n{" in (await ask(proxy)).body
    assert dict((await ask(proxy, stream=False)).headers)["Content-Length"] == "zz"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_corrupt_piece_keeps_its_length(proxy: FaultProxy, stream: bool) -> None:
    await proxy.set_fault(TcpFault("corrupt_piece"))
    answer = await ask(proxy, stream=stream)
    pieces = answer.chunks if stream else [answer.body]
    broken = [piece for piece in pieces if b"\xff" in piece]
    assert len(broken) == 1
    assert broken[0].endswith(b"\n") == stream
    assert pieces[-1] == b"" if stream else len(pieces[0]) > 100


@pytest.mark.parametrize("stream", [True, False])
async def test_an_endless_line_is_made_as_it_is_read(proxy: FaultProxy, stream: bool) -> None:
    await proxy.set_fault(TcpFault("endless_line", size_bytes=1 << 20))
    answer = await ask(proxy, stream=stream)
    assert len(answer.body) > 1 << 20
    assert answer.ending == "eof"
    assert b"\r\n0\r\n" not in answer.body
    await proxy.set_fault(TcpFault("endless_line"))  # of a GiB
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(chat())
    await reader.readexactly(1 << 20)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_an_answer_comes_twice(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("answer_twice", times=1))
    answer = await talk(proxy.port, chat(close=False), quiet_s=QUIET_S)
    assert answer.body.count(b"HTTP/1.1 200") == 1  # beside the one in the head


async def test_a_fault_hits_its_path_only(proxy: FaultProxy) -> None:
    await proxy.set_fault(TcpFault("reset_before_head", path="/api/gen*"))
    assert await is_well(proxy)
    assert proxy.struck == 0


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no such fault"):
        TcpFault("explode")  # type: ignore[arg-type]
