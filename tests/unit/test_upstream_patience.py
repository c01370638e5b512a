"""The client towards nodes, over real sockets: how long a node is waited for, and one that is down."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sollol.errors import NodeDown, UpstreamTimeout
from sollol.upstream.http import Timeouts, UpstreamRequest
from tests.scripted_node import (
    HELLO,
    STREAM,
    Peer,
    World,
    a_world,
    body_of,
    never_answer,
    post,
    say_hello,
    script_of,
    until,
)

CHUNK = b"1\r\na\r\n"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


def patient(first_byte_s: float, *more_s: float) -> tuple[UpstreamRequest, list[float]]:
    """Return a request that is given ``more_s`` one after another, and how long it had waited then."""
    waited: list[float] = []
    left = list(more_s)

    def patience(waited_s: float) -> float:
        waited.append(waited_s)
        return left.pop(0) if left else 0.0

    request = post()
    request.first_byte_s, request.patience = first_byte_s, patience
    return request, waited


async def test_a_limit_that_has_passed_is_extended_while_there_is_a_reason(world: World) -> None:
    client = await world.client(never_answer, Timeouts(first_byte_s=60, stall_s=0.01))
    request, waited = patient(0.02, 0.01, 0.03)
    with pytest.raises(UpstreamTimeout, match=r"no answer within 0.06 s"):
        await client.send(request)
    assert waited == pytest.approx([0.02, 0.03, 0.06])


async def test_an_answer_that_comes_after_the_limit_is_as_good(world: World) -> None:
    may_answer = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await may_answer.wait()
        await peer.send(HELLO)
        await peer.wait_gone()

    client = await world.client(script, Timeouts(stall_s=0.01))
    request, waited = patient(0.01, 60.0)
    answer = asyncio.ensure_future(client.send(request))
    await until(lambda: bool(waited))
    may_answer.set()
    assert await body_of(await answer) == b"hello"
    assert len(waited) == 1


async def test_the_first_byte_of_the_body_is_waited_for_like_the_head(world: World) -> None:
    client = await world.client(script_of(STREAM), Timeouts(first_byte_s=60, stall_s=0.01))
    request, waited = patient(0.02, 0.02)
    response = await client.send(request)
    with pytest.raises(UpstreamTimeout, match=r"no answer within 0.04 s"):
        await response.read()
    assert waited == pytest.approx([0.02, 0.04])
    response.close()


@pytest.mark.parametrize("how", ["read", "pump"])
async def test_a_request_may_bring_its_own_limit_of_silence(world: World, how: str) -> None:
    client = await world.client(script_of(STREAM + CHUNK), Timeouts(first_byte_s=0.01))
    request = post()
    request.stall_s = 0.03
    response = await client.send(request)
    with pytest.raises(UpstreamTimeout, match=r"nothing more of its answer for 0.03 s"):
        if how == "pump":
            await response.pump(lambda _: False)
        while True:
            await response.read()
    response.close()


async def test_one_that_waits_for_a_node_that_is_down_learns_of_it_at_once(world: World) -> None:
    """Also on a connection that had served before: a fresh one would fare no better."""
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.request()
        asked.set()
        await peer.wait_gone()

    client = await world.client(script)
    await body_of(await client.send(post()))
    waiting = asyncio.ensure_future(client.send(post()))
    await asked.wait()
    client.cut_silent(5.0)
    with pytest.raises(NodeDown, match=r"is down: it does not answer probes"):
        await waiting
    assert client.statistics().opened_total == 1


async def test_idle_connections_to_a_node_that_is_down_are_closed(world: World) -> None:
    client = await world.client(say_hello)
    await body_of(await client.send(post()))
    assert client.statistics().idle == 1
    client.cut_silent(5.0)
    assert client.statistics().open == 0
    assert await body_of(await client.send(post())) == b"hello"


async def test_an_answer_that_moves_goes_on_and_is_a_sign_of_life(world: World) -> None:
    client = await world.client(script_of(STREAM + CHUNK))
    response = await client.send(post())
    assert not client.is_moving(5.0)  # nobody waits for more, so nothing is known
    pump = asyncio.ensure_future(response.pump(lambda _: False))
    await until(lambda: client.is_moving(5.0))
    client.cut_silent(5.0)
    assert client.statistics().open == 1
    assert not client.is_moving(0.0)
    client.cut_silent(0.0)
    with pytest.raises(NodeDown):
        await pump
    response.close()
