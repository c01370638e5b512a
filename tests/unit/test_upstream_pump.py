"""Pushing a body into a sink: all of it, in order, no faster than the sink takes it."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from sollol.errors import ProtocolViolation, UpstreamCut, UpstreamTimeout
from sollol.upstream.connection import MAX_BUFFERED_BYTES
from sollol.upstream.http import Timeouts
from tests.scripted_node import STREAM, Peer, World, a_world, post, script_of, until


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PIECES = [b"%d " % number for number in range(200)]
WHOLE = STREAM + b"".join(map(chunk, PIECES)) + b"0\r\n\r\n"


@pytest.mark.parametrize("step", [1, 7, 100, len(WHOLE)])
async def test_a_body_arrives_whole_and_in_order(world: World, step: int) -> None:
    wires = [WHOLE[at : at + step] for at in range(0, len(WHOLE), step)]
    client = await world.client(script_of(*wires))
    response = await client.send(post())
    seen = bytearray()

    def sink(piece: bytes) -> bool:
        seen.extend(piece)
        return len(seen) % 3 == 0  # it has enough now and then

    while not await response.pump(sink):
        pass
    assert bytes(seen) == b"".join(PIECES)
    response.close()
    assert client.statistics().idle == 1


async def test_a_sink_that_has_enough_holds_the_node_back(world: World) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(STREAM)
        while True:
            await peer.send(chunk(b"x" * 65_536))
            sent += 65_536

    client = await world.client(script)
    response = await client.send(post())
    assert not await response.pump(lambda piece: True)
    await until(lambda: response.buffered_bytes > MAX_BUFFERED_BYTES)
    held = response.buffered_bytes
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert response.buffered_bytes == held
    before = sent
    assert not await response.pump(lambda piece: sent != before)
    response.close()


async def test_an_error_of_the_sink_ends_the_answer(world: World) -> None:
    client = await world.client(script_of(STREAM, chunk(b"a"), chunk(b"b")))
    response = await client.send(post())

    def sink(piece: bytes) -> bool:
        raise ProtocolViolation("not what was promised")

    with pytest.raises(ProtocolViolation, match="promised"):
        await response.pump(sink)
    response.close()
    assert client.statistics().open == 0


async def test_an_error_of_the_sink_at_the_last_piece_is_not_lost(world: World) -> None:
    client = await world.client(script_of(STREAM + chunk(b"a"), chunk(b"b") + b"0\r\n\r\n"))
    response = await client.send(post())

    def sink(piece: bytes) -> bool:
        if b"b" in piece:
            raise ProtocolViolation("not what was promised")
        return False

    with pytest.raises(ProtocolViolation):
        while not await response.pump(sink):
            pass
    response.close()


async def test_what_came_before_a_cut_is_given_first(world: World) -> None:
    client = await world.client(script_of(STREAM + chunk(b"a") + chunk(b"b"), then="close"))
    response = await client.send(post())
    seen: list[bytes] = []

    def sink(piece: bytes) -> bool:
        seen.append(piece)
        return False

    with pytest.raises(UpstreamCut):
        await response.pump(sink)
    assert b"".join(seen) == b"ab"
    response.close()


async def test_a_node_that_stops_in_the_middle_is_stalled(world: World) -> None:
    client = await world.client(script_of(STREAM + chunk(b"a")), Timeouts(stall_s=0.1))
    response = await client.send(post())
    with pytest.raises(UpstreamTimeout):
        await response.pump(lambda piece: False)
    response.close()


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b"]])
async def test_an_answer_that_is_over_is_not_waited_for(world: World, pieces: list[bytes]) -> None:
    wires = [STREAM, *map(chunk, pieces)]
    client = await world.client(script_of(*wires), Timeouts(lull_s=0.02, stall_s=math.inf))
    response = await client.send(post())
    seen = bytearray()

    def sink(piece: bytes) -> bool:
        seen.extend(piece)
        return False

    with pytest.raises(UpstreamTimeout):
        await response.pump(sink, lambda: bytes(seen) == b"".join(pieces))
    assert bytes(seen) == b"".join(pieces)
    response.close()
    assert client.statistics().open == 0


async def test_an_answer_that_is_not_over_may_stand_still_for_longer(world: World) -> None:
    client = await world.client(script_of(STREAM, chunk(b"a")), Timeouts(lull_s=0.02, stall_s=0.06))
    response = await client.send(post())
    asked: list[bool] = []

    def is_over() -> bool:
        asked.append(True)
        return False

    with pytest.raises(UpstreamTimeout, match=r"for 0.06 s"):
        await response.pump(lambda piece: False, is_over)
    assert asked == [True]
    response.close()


async def test_leaving_closes_the_connection(world: World) -> None:
    client = await world.client(script_of(STREAM + chunk(b"a")))
    response = await client.send(post())
    pumping = asyncio.ensure_future(response.pump(lambda piece: False))
    await asyncio.sleep(0)
    pumping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pumping
    response.close()
    assert client.statistics().open == 0
