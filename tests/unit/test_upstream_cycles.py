"""A connection to a node that has ended is gone at once: nothing waits for the garbage collector."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from sollol.errors import SollolError, UpstreamStatus
from sollol.upstream.answer import AnswerParser
from sollol.upstream.connection import Connection
from sollol.upstream.http import NodeConnections
from tests.scripted_node import HELLO, STREAM, World, a_world, fetch, post, script_of, until

CHUNK = b"5\r\nhello\r\n"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left() -> int:
    return sum(isinstance(one, Connection | AnswerParser) for one in gc.get_objects())


def refuse(_: bytes) -> bool:
    raise UpstreamStatus("a node's word", 500, b"", b"")


async def pump(client: NodeConnections) -> None:
    response = await client.send(post())
    try:
        await response.pump(refuse)
    finally:
        response.close()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "wires", [(), (b"no HTTP\r\n",), (STREAM, CHUNK), (STREAM, CHUNK, b"no size\r\n"), (HELLO,)]
)
async def test_a_connection_that_ends_leaves_no_cycles(
    world: World, wires: tuple[bytes, ...]
) -> None:
    before = left()
    client = await world.client(script_of(*wires, then="close"))
    try:
        await fetch(client)
    except SollolError:
        assert wires != (HELLO,)
    await until(lambda: left() == before)


@pytest.mark.usefixtures("no_collector")
async def test_a_connection_whose_reader_fails_leaves_no_cycles(world: World) -> None:
    before = left()
    client = await world.client(script_of(STREAM, CHUNK))
    with pytest.raises(UpstreamStatus) as raised:
        await pump(client)
    del raised
    await until(lambda: left() == before)
