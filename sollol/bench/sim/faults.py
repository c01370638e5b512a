"""Faults that a simulated node shows on demand.

Where they strike: 1. at the listener (``refuse``). 2. When a connection is accepted
(``black_hole``, ``reset_on_accept``). 3. Instead of an answer (``close_before_head``,
``hang_before_head``, ``status``, ``answer``, ``garbage``). 4. Before it, in the load of a model
(``hang_in_load``). 5. Inside an answer (all others).
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from typing import Literal, get_args

from sollol.bench.sim.errors import error_body, is_translated
from sollol.bench.sim.exchange import JSON, PLAIN_JSON, Exchange
from sollol.bench.sim.http import Connection, Request

FaultKind = Literal[
    "refuse",
    "black_hole",
    "reset_on_accept",
    "close_before_head",
    "hang_before_head",
    "status",
    "answer",
    "garbage",
    "hang_in_load",
    "cut_after_n_records",
    "reset_after_n_records",
    "end_without_done_after_n",
    "error_record_after_n",
    "error_record_first",
    "hang_after_n_records",
    "slow_drip",
    "wrong_content_length",
    "huge_line",
    "half_close",
    "cut_at_end",
    "reset_at_end",
    "hang_at_end",
]
_ON_ACCEPT = ("black_hole", "reset_on_accept")
_INSTEAD = ("close_before_head", "hang_before_head", "status", "answer", "garbage")
_STOPPING = (
    "cut_after_n_records",
    "reset_after_n_records",
    "end_without_done_after_n",
    "error_record_after_n",
    "error_record_first",
    "hang_after_n_records",
)
_AT_END = ("cut_at_end", "reset_at_end", "hang_at_end")
"""After the last record of a stream, in place of the end of its body."""
_ERROR_RECORDS = ("error_record_after_n", "error_record_first")
_CRASHED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an "
    "internal error, check ollama server logs for details"
)
_MESSAGES = {
    429: "too many requests",
    500: _CRASHED,
    502: "bad gateway",
    503: "server busy, please try again.  maximum pending requests exceeded",
}
_NOT_HTTP = b"\x16\x03\x01 this is not HTTP \x00\xff\r\n\r\n"
_TEXT_FIELD = re.compile(rb'"(?:content|response|text)":"')
_FLUSH_S = 0.02  # what was written before a reset is given this long to reach the client


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of misbehaviour and whom it hits."""

    kind: FaultKind
    path: str = "*"
    """Shell pattern for the path; listener and accept faults hit every connection."""
    model: str = "*"
    """Shell pattern for the ``model`` of the body, as the request spells it."""
    times: int | None = None
    """How many requests or connections it hits before it is over; ``None`` for all."""
    records: int = 1
    """Good records before the fault; an answer of one piece is cut in its middle instead."""
    status: int = 503
    message: str = ""
    """Error text of ``status`` and of error records; empty for Ollama's own."""
    body: str = ""
    """What ``answer`` says, with ``status`` and ``content_type``."""
    content_type: str = "text/html"
    size_bytes: int = 1 << 20
    """How long the line of ``huge_line`` is."""
    interval_s: float = 0.0
    """Real seconds between two bytes of ``slow_drip``."""
    delta_bytes: int = 10
    """How much more ``wrong_content_length`` promises than it sends; negative for less."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"no such fault: {self.kind!r}")

    @property
    def text(self) -> str:
        """Return the error text."""
        if self.message:
            return self.message
        return _MESSAGES.get(self.status, _CRASHED) if self.kind == "status" else _CRASHED


@dataclass(slots=True)
class _ActiveFault:
    fault: Fault
    left: float


class FaultBox:
    """The faults that are switched on, oldest first; the first that matches strikes."""

    def __init__(self) -> None:
        self._active: list[_ActiveFault] = []

    @property
    def active(self) -> list[Fault]:
        """Return the faults that can still strike."""
        return [entry.fault for entry in self._active]

    @property
    def refuses(self) -> bool:
        """Whether new connections are to be refused."""
        return any(entry.fault.kind == "refuse" for entry in self._active)

    @property
    def is_quiet(self) -> bool:
        """Whether no fault is switched on."""
        return not self._active

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._active.append(_ActiveFault(fault, inf if fault.times is None else fault.times))

    def clear(self) -> None:
        """Switch every fault off."""
        self._active.clear()

    def take_on_accept(self) -> Fault | None:
        """Return the fault that a new connection meets."""
        for entry in self._active:
            if entry.fault.kind in _ON_ACCEPT:
                return self._strike(entry)
        return None

    def take_on_request(self, path: str, model: str) -> Fault | None:
        """Return the fault that a request meets."""
        for entry in self._active:
            fault = entry.fault
            if fault.kind in _ON_ACCEPT or fault.kind == "refuse":
                continue
            if fnmatchcase(path, fault.path) and fnmatchcase(model, fault.model):
                return self._strike(entry)
        return None

    def _strike(self, entry: _ActiveFault) -> Fault:
        entry.left -= 1
        if entry.left <= 0:
            self._active.remove(entry)
        return entry.fault


async def answer_with_fault(exchange: Exchange, fault: Fault) -> bool:
    """Carry out a fault that stands in place of an answer; return whether it was one."""
    if fault.kind not in _INSTEAD:
        return False
    connection = exchange.connection
    if fault.kind == "hang_before_head":
        await connection.wait_closed()
    elif fault.kind == "status":
        respond_error(exchange, fault.status, fault.text)
    elif fault.kind == "answer":
        exchange.respond(fault.status, fault.body.encode(), fault.content_type.encode())
    else:
        connection.write(_NOT_HTTP if fault.kind == "garbage" else b"")
        exchange.request.keep_alive = False
    return True


def respond_error(exchange: Exchange, status: int, message: str) -> None:
    """Answer with an error that comes from behind the translation for ``/v1``."""
    exchange.respond(status, *_error(exchange.request.path, status, message))


def _error(path: str, status: int, message: str) -> tuple[bytes, bytes]:
    """Return an error's body and its type."""
    body = error_body(path, status, message)
    return (body + b"\n", PLAIN_JSON) if is_translated(path) else (body, JSON)


class FaultyExchange(Exchange):
    """An answer that goes wrong on its way."""

    def __init__(self, connection: Connection, request: Request, fault: Fault) -> None:
        super().__init__(connection, request)
        self.fault = fault
        self.error_record = b""
        """What an error record says, in the form of this answer's records."""
        self._records = 0
        self._stops_after = 0 if fault.kind == "error_record_first" else fault.records
        self._is_stopped = False
        self._drip: bytearray | None = bytearray() if fault.kind == "slow_drip" else None

    def respond(
        self, status: int, body: bytes = b"", content_type: bytes = JSON, *, bare: bool = False
    ) -> None:
        """Answer with a body of known length, broken where the fault says."""
        kind = self.fault.kind
        if kind in _ERROR_RECORDS:
            super().respond(500, *_error(self.request.path, 500, self.fault.text))
            return
        if kind in _STOPPING and kind != "end_without_done_after_n":
            self._is_stopped = True
            self._respond_promising(status, len(body), body[: len(body) // 2], content_type)
            return
        if kind == "wrong_content_length":
            promised = max(0, len(body) + self.fault.delta_bytes)
            self._respond_promising(status, promised, body, content_type)
            return
        super().respond(status, body, content_type, bare=bare)

    def write_record(self, record: bytes) -> bool:
        """Write one record, unless the answer stops here."""
        if self.fault.kind in _STOPPING and self._records >= self._stops_after:
            self._is_stopped = True
            return False
        if self.fault.kind == "huge_line" and self._records == self.fault.records:
            record = _stretch(record, self.fault.size_bytes)
        self._records += 1
        return super().write_record(record)

    def write_records(self, records: Sequence[bytes]) -> bool:
        """Write records one by one, as far as the fault lets them through."""
        return all(self.write_record(record) for record in records)

    async def end_stream(self) -> None:
        """End an answer of records the way the fault wants it."""
        kind = self.fault.kind
        if not self._is_stopped and kind not in _AT_END:
            await super().end_stream()
            return
        if kind == "error_record_after_n" and not self._records:
            self._head = b""
            self.respond(500)
            return
        if kind in _ERROR_RECORDS and self.error_record:
            super().write_record(self.error_record)
        if kind in _ERROR_RECORDS or kind == "end_without_done_after_n":
            await super().end_stream()
            return
        self._write(self._take_head())
        await self._stop()

    async def finish(self) -> None:
        """Do what the fault wants done after the answer."""
        kind = self.fault.kind
        if self._drip is not None:
            await self._drip_out(self._drip)
        elif kind == "half_close":
            self.connection.transport.write_eof()
            await self.connection.wait_closed()
        elif self._is_stopped or (kind == "wrong_content_length" and self.fault.delta_bytes > 0):
            await self._stop()

    async def _stop(self) -> None:
        """Break the connection off, or leave it hanging, where the answer stands."""
        self._is_stopped = False
        if self.fault.kind in ("hang_after_n_records", "hang_at_end"):
            await self.connection.wait_closed()
        elif self.fault.kind in ("reset_after_n_records", "reset_at_end"):
            await asyncio.sleep(_FLUSH_S)
            self.connection.reset()
        elif self.fault.kind in ("cut_after_n_records", "cut_at_end", "wrong_content_length"):
            self.connection.transport.close()

    async def _drip_out(self, data: bytearray) -> None:
        for value in data:
            self.connection.write(bytes((value,)))
            await asyncio.sleep(self.fault.interval_s)

    def _respond_promising(
        self, status: int, promised: int, body: bytes, content_type: bytes
    ) -> None:
        self.status = status
        length = [(b"Content-Length", str(promised).encode())]
        self._write(self._render_head(content_type, length) + body)

    def _write(self, data: bytes) -> None:
        if self._drip is not None:
            self._drip += data
            return
        super()._write(data)


def _stretch(record: bytes, size_bytes: int) -> bytes:
    """Return a record with more text in it; one without text stays as it is."""
    found = _TEXT_FIELD.search(record)
    if found is None:
        return record
    return record[: found.end()] + b"x" * size_bytes + record[found.end() :]
