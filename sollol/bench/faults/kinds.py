"""What the fault proxy does to an answer, one function for each kind of fault.

Faults that are a matter of HTTP or of Ollama are the simulated node's own
(``bench/sim/faults.py``); here are those of the connection and of single bytes.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, get_args

from sollol.bench.faults.answer import NodeAnswer, Piece

TcpFaultKind = Literal[
    "backlog_full",
    "close_on_accept",
    "close_on_reuse",
    "reset_before_head",
    "latency",
    "half_head",
    "cut_in_head",
    "huge_head",
    "interim_heads",
    "bad_framing",
    "reset_in_piece",
    "cut_in_piece",
    "stall_in_piece",
    "half_close",
    "corrupt_piece",
    "endless_line",
    "answer_twice",
]
GIB = 1 << 30
_FLUSH_S = 0.02  # what was written before a reset is given this long to reach the client
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
_HUGE_HEADER = b"\r\nX-Filler: " + b"x" * (1 << 20)
_FILLING = b"x" * 65_536


@dataclass(frozen=True, slots=True)
class TcpFault:
    """One kind of misbehaviour and whom it hits."""

    kind: TcpFaultKind
    path: str = "*"
    """Shell pattern for the path; faults of the listener hit every connection."""
    times: int | None = None
    """How many requests or connections it hits before it is over; ``None`` for all."""
    pieces: int = 1
    """Good pieces of the body before the fault: chunks, or halves of a body with a length."""
    delay_s: float = 0.1
    """How much later an answer with ``latency`` begins."""
    size_bytes: int = GIB
    """How long the line of ``endless_line`` is if the client reads all of it."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(TcpFaultKind):
            raise ValueError(f"no such fault: {self.kind!r}")


class Client:
    """The proxy's end of a client's connection."""

    def __init__(self, writer: asyncio.StreamWriter, gone: asyncio.Event) -> None:
        self._writer = writer
        self._gone = gone

    async def send(self, data: bytes) -> None:
        """Write, no faster than the client reads."""
        self._writer.write(data)
        await self._writer.drain()

    def end_writing(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self._writer.write_eof()

    async def wait_gone(self) -> None:
        """Wait until the client has left."""
        await self._gone.wait()

    async def reset(self) -> None:
        """Close with a RST, once what was written had time to arrive."""
        await asyncio.sleep(_FLUSH_S)
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def pass_on(client: Client, answer: NodeAnswer) -> None:
    """Pass a whole answer on as it comes."""
    await client.send(answer.head)
    while piece := await answer.next_piece():
        await client.send(piece.raw)


async def break_answer(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    """Carry out a fault; return whether the connection may carry another request."""
    return await _ACTS[fault.kind](client, answer, fault)


async def _begin(client: Client, answer: NodeAnswer, fault: TcpFault) -> Piece:
    """Send the head and the good pieces; return the piece in which it goes wrong."""
    await client.send(answer.head)
    for _ in range(fault.pieces):
        await client.send(await _next(answer))
    piece = await answer.next_piece()
    return piece or Piece(b"", 0, 0)


async def _next(answer: NodeAnswer) -> bytes:
    piece = await answer.next_piece()
    return piece.raw if piece else b""


async def _latency(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await asyncio.sleep(fault.delay_s)
    await pass_on(client, answer)
    return True


async def _close(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    return False


async def _reset_before_head(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await client.reset()
    return False


async def _half_head(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await client.send(answer.head[: len(answer.head) // 2])
    await client.wait_gone()
    return False


async def _cut_in_head(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await client.send(answer.head[: len(answer.head) // 2])
    return False


async def _huge_head(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    status, _, rest = answer.head.partition(b"\r\n")
    await client.send(status + _HUGE_HEADER + b"\r\n" + rest)
    await client.send(b"".join([piece.raw for piece in await answer.rest()]))
    return False


async def _interim_heads(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await client.send(_INTERIM)
    await pass_on(client, answer)
    return True


async def _bad_framing(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    """Give a chunk a size that is no number, or a body a length that is none."""
    if answer.is_chunked:
        piece = await _begin(client, answer, fault)
        await client.send(b"zz\r\n" + piece.content + b"\r\n")
    else:
        await client.send(answer.head_framed(b"Content-Length: zz") + await _next(answer))
    return False


async def _reset_in_piece(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    piece = await _begin(client, answer, fault)
    await client.send(piece.first_half)
    await client.reset()
    return False


async def _cut_in_piece(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    piece = await _begin(client, answer, fault)
    await client.send(piece.first_half)
    return False


async def _stall_in_piece(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await _cut_in_piece(client, answer, fault)
    await client.wait_gone()
    return False


async def _half_close(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    await _cut_in_piece(client, answer, fault)
    client.end_writing()
    await client.wait_gone()
    return False


async def _corrupt_piece(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    """Overwrite the second half of a piece's content, but not the line feed at its end."""
    piece = await _begin(client, answer, fault)
    content = piece.content.rstrip(b"\n")
    half, feeds = len(content) // 2, piece.raw[piece.start + len(content) :]
    broken = content[:half] + b"\xff" * (len(content) - half)
    await client.send(piece.raw[: piece.start] + broken + feeds)
    while rest := await _next(answer):
        await client.send(rest)
    return True


async def _endless_line(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    """Go on with a line that does not end; it is made up as it is sent."""
    await client.send(answer.head_framed(b"Transfer-Encoding: chunked"))
    for _ in range(fault.pieces):
        content = (await answer.next_piece() or Piece(b"", 0, 0)).content
        await client.send(b"%x\r\n%b\r\n" % (len(content), content))
    for _ in range(0, fault.size_bytes, len(_FILLING)):
        await client.send(b"%x\r\n%b\r\n" % (len(_FILLING), _FILLING))
    return False


async def _answer_twice(client: Client, answer: NodeAnswer, fault: TcpFault) -> bool:
    whole = answer.head + b"".join([piece.raw for piece in await answer.rest()])
    await client.send(whole + whole)
    return True


_ACTS: dict[str, Callable[[Client, NodeAnswer, TcpFault], Awaitable[bool]]] = {
    "close_on_reuse": _close,
    "reset_before_head": _reset_before_head,
    "latency": _latency,
    "half_head": _half_head,
    "cut_in_head": _cut_in_head,
    "huge_head": _huge_head,
    "interim_heads": _interim_heads,
    "bad_framing": _bad_framing,
    "reset_in_piece": _reset_in_piece,
    "cut_in_piece": _cut_in_piece,
    "stall_in_piece": _stall_in_piece,
    "half_close": _half_close,
    "corrupt_piece": _corrupt_piece,
    "endless_line": _endless_line,
    "answer_twice": _answer_twice,
}
