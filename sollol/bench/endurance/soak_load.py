"""The requests of a soak: small ones of every kind, faults of the nodes, callers who hang up."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sollol.bench.live.bodies import Sending
from sollol.bench.live.client import Received, exchange, write_request
from sollol.bench.sim.faults import Fault
from sollol.types import Task

CHAT, EMBEDDER = "m", "embedder"
AT_ONCE = 64
FAULT_SHARE, ABORT_SHARE = 0.01, 0.02
ABORT_WITHIN_S = 0.03
HUNG_S = 60.0
REFUSED_S = 0.1
REFUSE_EVERY = 10_000
"""Refusals take a node out for seconds: one in a hundred faults, or every node would be out."""
MOVE_EVERY, CALM = 1000, 200
"""Faults are at one node at a time, which changes so often, and the next one has none for so many
requests: one that met two would be refused, as one that kills what it meets."""

_SHARE_AFTER_CALM = FAULT_SHARE * MOVE_EVERY / (MOVE_EVERY - CALM)
_CUTS = frozenset(("cut_after_n_records", "error_record_after_n"))
_FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 500, "message": "no such luck"},
    {"kind": "cut_after_n_records", "records": 2},
    {"kind": "close_before_head"},
    {"kind": "error_record_first"},
    {"kind": "error_record_after_n", "records": 2},
    {"kind": "status", "status": 503},
)
_OPTIONS = {"num_predict": 4}


@dataclass(frozen=True, slots=True)
class _Kind:
    path: str
    task: Task
    body: Callable[[str], Mapping[str, Any]]
    end: bytes
    """What a whole answer holds at its end."""


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


_KINDS = (
    _Kind(
        "/api/chat",
        Task.CHAT,
        lambda text: {"model": CHAT, "messages": _messages(text), "options": _OPTIONS},
        b'"done":true',
    ),
    _Kind(
        "/api/chat",
        Task.CHAT,
        lambda text: {
            "model": CHAT,
            "messages": _messages(text),
            "options": _OPTIONS,
            "stream": False,
        },
        b'"done":true',
    ),
    _Kind(
        "/api/generate",
        Task.GENERATE,
        lambda text: {"model": CHAT, "prompt": text, "options": _OPTIONS},
        b'"done":true',
    ),
    _Kind(
        "/api/embed",
        Task.EMBED,
        lambda text: {"model": EMBEDDER, "input": text},
        b'"total_duration"',
    ),
    _Kind(
        "/v1/chat/completions",
        Task.CHAT,
        lambda text: {
            "model": CHAT,
            "messages": _messages(text),
            "max_tokens": 4,
            "stream": True,
        },
        b"data: [DONE]",
    ),
)


@dataclass
class Load:
    """Requests that are sent one after the other, :data:`AT_ONCE` at a time.

    ``outcomes`` counts what became of them: ``right``, ``aborted``, ``cut`` after the first byte,
    ``hung``, or what went wrong before.
    """

    port: int
    control_ports: tuple[int, ...]
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    done: int = 0
    _begun: int = 0

    async def run(self, requests: int, *, is_rough: bool = True) -> None:
        """Send so many more; without faults and aborts unless ``is_rough``."""
        end = self._begun + requests
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work(end, is_rough))

    async def clear_faults(self) -> None:
        """Switch off what has not struck."""
        for port in self.control_ports:
            await _control(port, "DELETE", "/sim/faults", b"")

    async def _work(self, end: int, is_rough: bool) -> None:
        while self._begun < end:
            self._begun += 1
            if is_rough:
                await self._make_trouble(self._begun)
            outcome = await self._send(self._begun, is_rough)
            self.outcomes[outcome] += 1
            self.done += 1

    async def _make_trouble(self, number: int) -> None:
        port = self.control_ports[number // MOVE_EVERY % len(self.control_ports)]
        if number % MOVE_EVERY == 0:
            await self.clear_faults()
        if number % REFUSE_EVERY == 0:
            self.faults["refuse"] += 1
            await _refuse_a_moment(port)
        elif number % MOVE_EVERY >= CALM and self.random.random() < _SHARE_AFTER_CALM:
            path = self.random.choice(_KINDS).path
            fault = Fault(path=path, times=1, **self.random.choice(_FAULTS))
            self.faults[name_of(fault)] += 1
            await _control(port, "POST", "/sim/faults", msgspec.json.encode(fault))

    async def _send(self, number: int, is_rough: bool) -> str:
        kind = self.random.choice(_KINDS)
        body = msgspec.json.encode(kind.body(f"question {number} " + "x" * 100))
        sending = Sending(0.0, "", kind.path, body, 5, kind.task)
        aborts = is_rough and self.random.random() < ABORT_SHARE
        patience_s = self.random.random() * ABORT_WITHIN_S if aborts else HUNG_S
        received = Received(0.0)
        try:
            async with asyncio.timeout(patience_s):
                await exchange(write_request(sending, self.port), self.port, received)
        except TimeoutError:
            return "aborted" if aborts else "hung"
        except OSError:
            return "not connected"
        return judge_answer(received, kind.end)


def judge_answer(received: Received, end: bytes) -> str:
    """Return the outcome of an answer whose connection is closed."""
    if received.status != 200:
        return f"status {received.status}" if received.status else "closed without an answer"
    return "right" if end in received.tail else "cut"


def name_of(fault: Fault) -> str:
    """Return how a fault is called in the report."""
    return f"status {fault.status}" if fault.kind == "status" else fault.kind


def cuts(faults: Mapping[str, int]) -> int:
    """Return how many of the faults strike after the first byte."""
    return sum(count for name, count in faults.items() if name in _CUTS)


async def _refuse_a_moment(port: int) -> None:
    await _control(port, "POST", "/sim/listener", b'{"listening":false}')
    await _control(port, "DELETE", "/sim/connections", b"")
    await asyncio.sleep(REFUSED_S)
    await _control(port, "POST", "/sim/listener", b'{"listening":true}')


async def _control(port: int, method: str, path: str, body: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    with contextlib.closing(writer):
        await reader.read()
