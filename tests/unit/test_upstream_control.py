"""The gateway's own requests: what a server may answer that nobody has vouched for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from sollol.errors import ProtocolViolation, SollolError, UpstreamError
from sollol.upstream.control import MAX_ANSWER_BYTES, ControlClient
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


class Scripted:
    """A server that answers from a script, and a client of it."""

    client: ControlClient

    def __init__(self) -> None:
        self.heads: list[bytes] = []


@contextlib.asynccontextmanager
async def scripted(*replies: str, head: bytes = b"200 OK") -> AsyncIterator[Scripted]:
    """Answer requests over one kept-alive connection with one reply after another."""
    made = Scripted()
    left = list(replies)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                made.heads.append(await reader.readuntil(b"\r\n\r\n"))
                body = left.pop(0).encode()
                length = b"content-length: %d" % len(body)
                writer.write(b"HTTP/1.1 " + head + b"\r\n" + length + b"\r\n\r\n" + body)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"
        async with asking(url, api_key="key") as made.client:
            yield made


@contextlib.asynccontextmanager
async def asking(url: str, api_key: str | None = None) -> AsyncIterator[ControlClient]:
    async with contextlib.aclosing(ControlClient(url, 5.0, api_key=api_key)) as client:
        yield client


async def test_an_answer_without_end_is_given_up() -> None:
    async with serving(b"", MAX_ANSWER_BYTES // len(PIECE) + 100) as url, asking(url) as client:
        with pytest.raises(ProtocolViolation, match="longer than"):
            await client.get("/")


async def test_an_answer_within_the_bound_is_read() -> None:
    async with serving(b"", 2) as url, asking(url) as client:
        assert len((await client.get("/")).body) == 2 * len(PIECE)


async def test_a_compressed_answer_is_refused() -> None:
    async with serving(b"content-encoding: gzip\r\n", 0) as url, asking(url) as client:
        with pytest.raises(ProtocolViolation, match="compressed"):
            await client.get("/")


async def test_every_request_says_who_asks_and_that_nothing_is_to_be_packed() -> None:
    async with scripted("{}", "{}") as server:
        await server.client.get("/api/tags")
        server.client.api_key = None
        await server.client.get("/api/tags")
    first, second = server.heads
    assert first.startswith(b"GET /base/api/tags HTTP/1.1\r\n")
    assert b"authorization: Bearer key\r\n" in first
    assert b"authorization" not in second
    assert b"accept-encoding: identity\r\n" in first


async def test_an_answer_that_is_the_same_is_not_read_again() -> None:
    async with scripted('{"a": 1}', '{"a": 1}', '{"a": 2}', '{"a": 1}') as server:
        seen = [await server.client.recall("/", dict) for _ in range(4)]
    assert seen == [{"a": 1}, {"a": 1}, {"a": 2}, {"a": 1}]
    assert seen[1] is seen[0]
    assert seen[3] is not seen[0]


async def test_answers_to_different_paths_are_kept_apart() -> None:
    async with scripted("{}", "{}") as server:
        assert await server.client.recall("/a", len) == 0
        assert await server.client.recall("/b", dict) == {}


async def test_an_answer_that_cannot_be_read_is_not_kept() -> None:
    async with scripted("[]", "[]", "no") as server:
        for _ in range(3):
            with pytest.raises(ValueError, match=r"no JSON object|Expecting value"):
                await server.client.recall("/a", dict)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"503 Service Unavailable", "/a answered 503 Service Unavailable"),
        (b"302 Found", "/a answered 302 Found"),
        (b"599 Odd", "/a answered 599$"),
    ],
)
async def test_an_error_status_is_named(head: bytes, told: str) -> None:
    async with scripted("{}", head=head) as server:
        with pytest.raises(UpstreamError, match=told):
            await server.client.recall("/a", dict)


async def test_a_client_that_is_closed_while_it_connects_leaves_no_connection() -> None:
    """An unclosed socket is an error in these tests."""
    now_open: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        now_open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()
        now_open.discard(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for turns in range(25):  # somewhere in there it is connecting
            client = ControlClient(url, 5.0)
            answer = asyncio.ensure_future(client.get("/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.aclose()
            with contextlib.suppress(SollolError):  # closed before it began
                await answer
        await until(lambda: not now_open)
