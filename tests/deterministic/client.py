"""A simulated caller: sends one request over a connection of its own, and reads the answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.deterministic.answers import token
from tests.deterministic.loop import GRID_S, VirtualLoop
from tests.deterministic.network import Wire


class Leave(StrEnum):
    """When a caller leaves without having its answer."""

    NEVER = "never"
    AFTER = "after"
    """Some ticks after it came."""
    GRANT = "grant"
    """In the moment in which it is granted a slot that it waited for."""
    EVE = "eve"
    """While it waits, some turns of the loop after a request has ended on a node: with luck, in the
    very turn in which the slot is given to it, and before that."""
    RECORD = "record"
    """With the first record of a stream."""


class End(StrEnum):
    """How it went for a caller."""

    WHOLE = "whole"
    """An answer of status 200, complete."""
    ERROR = "error"
    """An answer of another status."""
    BROKEN = "broken"
    """A stream that ended in an error record."""
    CUT = "cut"
    """The connection was closed in the middle."""
    LEFT = "left"
    """It did not wait for the end."""


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """One request; times in ticks of the loop."""

    name: str
    at: int
    model: str
    tokens: int
    path: str = "/api/chat"
    is_stream: bool = True
    priority: int = 5
    deadline_s: float | None = None
    kind: str = ""
    """Also ``poison``: runners die of it; ``bad``: nodes refuse it."""
    leave: Leave = Leave.NEVER
    leave_ticks: int = 0
    leave_turns: int = 2
    pause_ticks: int = 0
    """So long it does not read, from the first record on."""
    continues: bool = False
    """Another node is to go on with a stream that breaks off."""
    upload_ticks: int = 0
    """So much later than its head its body comes."""

    @property
    def prompt(self) -> str:
        """What it asks."""
        return f"{self.name} {self.kind}"

    def text(self) -> str:
        """Return the whole answer."""
        return "".join(token(self.prompt, place) for place in range(self.tokens))

    def body(self) -> bytes:
        """Return its body."""
        asked: dict[str, object] = {"model": self.model, "stream": self.is_stream}
        if self.path == "/api/embed":
            asked = {"model": self.model, "input": self.prompt}
        elif self.path == "/api/generate":
            asked["prompt"] = self.prompt
        else:
            asked["messages"] = [{"role": "user", "content": self.prompt}]
        asked["options"] = {"num_predict": self.tokens}
        return json.dumps(asked).encode()

    def head(self) -> bytes:
        """Return what comes before its body."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            "host: localhost",
            f"x-request-id: {self.name}",
            f"x-sollol-priority: {self.priority}",
            "content-type: application/json",
            f"content-length: {len(self.body())}",
        ]
        if self.deadline_s is not None:
            lines.append(f"x-sollol-deadline: {self.deadline_s:g}")
        if self.continues:
            lines.append("x-sollol-on-cut: continue")
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(slots=True)
class Told:
    """What a caller has got so far. ``began_at`` and ``ended_at`` are in virtual seconds."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    end: End | None = None
    began_at: float | None = None
    ended_at: float = 0.0
    excess: bytes = b""
    """What came after the end."""

    @property
    def text(self) -> str:
        """The tokens that came, joined."""
        return "".join(
            record.get("response") or record.get("message", {}).get("content", "")
            for record in self.records
        )

    @property
    def by(self) -> list[str]:
        """The generations that it came from."""
        return list(dict.fromkeys(record["by"] for record in self.records if "by" in record))

    @property
    def error(self) -> str:
        """What a record or the body says is wrong."""
        return next((str(r["error"]) for r in self.records if "error" in r), "")


class Client:
    """The caller. ``note`` is told what happens."""

    def __init__(self, plan: RequestPlan, loop: VirtualLoop, note: Callable[[str], None]) -> None:
        self.plan = plan
        self.told = Told()
        self.came_at = 0.0
        self.on_end: Callable[[Client], None] = lambda _: None
        self._loop = loop
        self._note = note
        self._wire: Wire
        self._protocol: Any
        self._held = b""
        self._is_chunked = False
        self._left: int | None = None

    def come(self, wire: Wire, protocol: Any) -> None:
        """Connect and ask."""
        self._wire, self._protocol = wire, protocol
        wire.listener = self
        self.came_at = self._loop.time()
        self._note(f"{self.plan.name} comes for {self.plan.model}")
        protocol.connection_made(wire)
        if self.plan.upload_ticks:
            wire.send(self.plan.head())
            self._loop.call_later(self.plan.upload_ticks * GRID_S, wire.send, self.plan.body())
        else:
            wire.send(self.plan.head() + self.plan.body())
        if self.plan.leave is Leave.AFTER:
            self._loop.call_later(self.plan.leave_ticks * GRID_S, self.leave)

    def leave(self) -> None:
        """Go away, now."""
        if self.told.end is None:
            self._end(End.LEFT)
            self._wire.drop()

    def received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        if self.told.end is not None:
            self.told.excess += data if self.told.end is not End.LEFT else b""
            return
        self._held += data
        if not self.told.status and not self._read_head():
            return
        if self._is_chunked:
            self._read_chunks()
        elif self._left is not None and len(self._held) >= self._left:
            self._take(self._held[: self._left])
            self._end(self._verdict())
            self._wire.drop()

    def closed(self) -> None:
        """Hear that the gateway has closed."""
        if self.told.end is None:
            self._end(End.CUT)

    def _read_head(self) -> bool:
        head, gap, rest = self._held.partition(b"\r\n\r\n")
        if not gap:
            return False
        lines = head.decode().split("\r\n")
        told = self.told
        told.status, told.began_at = int(lines[0].split(" ")[1]), self._loop.time()
        told.headers = dict(line.split(": ", 1) for line in lines[1:])
        self._is_chunked = told.headers.get("transfer-encoding") == "chunked"
        length = told.headers.get("content-length")
        self._left = None if length is None else int(length)
        self._held = rest
        return True

    def _read_chunks(self) -> None:
        while self.told.end is None:
            size, gap, rest = self._held.partition(b"\r\n")
            if not gap or len(rest) < int(size, 16) + 2:
                return
            if int(size, 16) == 0:
                self.told.excess = rest[2:]
                self._end(self._verdict())
                self._wire.drop()
                return
            piece, self._held = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            self._take(piece)

    def _take(self, piece: bytes) -> None:
        is_first = not self.told.records
        self.told.records += [json.loads(line) for line in piece.splitlines() if line]
        if is_first and self.plan.leave is Leave.RECORD:
            self.leave()
        elif is_first and self.plan.pause_ticks and self._is_chunked:
            self._protocol.pause_writing()
            self._loop.call_later(self.plan.pause_ticks * GRID_S, self._protocol.resume_writing)

    def _verdict(self) -> End:
        if self.told.status != 200:
            return End.ERROR
        return End.BROKEN if self.told.error else End.WHOLE

    def _end(self, end: End) -> None:
        told = self.told
        told.end, told.ended_at = end, self._loop.time()
        node = told.headers.get("x-sollol-node", "")
        self._note(f"{self.plan.name} {end} {told.status} {node} {told.error} {told.text}")
        self.on_end(self)
