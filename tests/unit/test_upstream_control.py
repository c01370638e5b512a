"""The gateway's own requests: what a server may answer that nobody has vouched for."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest

from sollol.upstream.control import MAX_ANSWER_BYTES, control_client
from tests.scripted_node import until

PIECE = b"x" * 1024 * 1024


@contextlib.asynccontextmanager
async def serving(head: bytes, pieces: int) -> AsyncIterator[str]:
    """Answer one request with ``pieces`` MiB, or as much of them as is taken."""
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"connection: close\r\n\r\n")
            for _ in range(pieces):
                writer.write(PIECE)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await done.wait()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with control_client(5.0, ssl.create_default_context()) as made:
        yield made


async def test_an_answer_without_end_is_given_up(client: httpx.AsyncClient) -> None:
    async with serving(b"", MAX_ANSWER_BYTES // len(PIECE) + 100) as url:
        with pytest.raises(httpx.ReadError, match="longer than"):
            await client.get(url)


async def test_an_answer_within_the_bound_is_read(client: httpx.AsyncClient) -> None:
    async with serving(b"", 2) as url:
        assert len((await client.get(url)).content) == 2 * len(PIECE)


async def test_a_compressed_answer_is_refused(client: httpx.AsyncClient) -> None:
    async with serving(b"content-encoding: gzip\r\n", 0) as url:
        with pytest.raises(httpx.RemoteProtocolError, match="compressed"):
            await client.get(url)


async def test_a_client_that_is_closed_while_it_connects_leaves_no_connection() -> None:
    """httpx's pool would forget it; an unclosed socket is an error in these tests."""
    now_open: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        now_open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()
        now_open.discard(writer)

    context = ssl.create_default_context()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for turns in range(25):  # somewhere in there it is connecting
            client = control_client(5.0, context)
            asking = asyncio.ensure_future(client.get(url))
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.aclose()
            with contextlib.suppress(httpx.HTTPError, RuntimeError):  # closed before it began
                await asking
        await until(lambda: not now_open)
