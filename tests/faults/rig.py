"""A gateway over pairs of nodes: of each pair, which no other shares a model with, one has a fault.

The one with the fault has the model in memory and the other has not, so it is chosen first.
"""

import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from sollol.bench.faults.kinds import TcpFault
from sollol.bench.faults.proxy import FaultProxy
from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.node import Fault, SimNode
from tests.faults.expected import MIB, Case, Route
from tests.gateways import RunningGateway, running_gateway

SHORT_S = 1.0
"""What every timeout of the gateway is set to."""
ANSWERED_S = 5.0
"""What no request may take."""
TOKENS = 12
_NAMES = ".faulty.localhost"
_SETTINGS: dict[str, Any] = {
    "upstream": {
        "connect_timeout_s": SHORT_S,
        "first_byte_timeout_s": SHORT_S,
        "stall_timeout_s": SHORT_S,
    },
    "probe": {"interval_s": 3600},
    "scheduling": {"state_file": "", "explore_share": 0, "prewarm": False},
}


class Names:
    """A resolver of names of this machine that may stop to know them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_known = True
        self._resolve = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not isinstance(name, str) or not name.endswith(_NAMES):
            return self._resolve(host, *rest, **more)
        if not self.are_known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._resolve("127.0.0.1", *rest, **more)


@dataclass(frozen=True)
class Pair:
    """Two nodes that alone have ``model``; the first is behind a proxy where the fault wants it."""

    model: SimModel
    route: Route
    stream: bool
    first: SimNode
    proxy: FaultProxy
    other: SimNode
    first_url: str

    @property
    def is_streamed(self) -> bool:
        return self.stream and self.route is not Route.EMBED

    @property
    def body(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self.model.name, "stream": self.stream}
        options = {"num_predict": TOKENS}
        if self.route is Route.EMBED:
            return asked | {"input": ["one", "two"]}
        if self.route is Route.GENERATE:
            return asked | {"prompt": "go", "options": options}
        messages = [{"role": "user", "content": "go"}]
        limit = {"max_tokens": TOKENS} if self.route is Route.V1_CHAT else {"options": options}
        return asked | {"messages": messages} | limit

    async def ask(self, client: httpx.AsyncClient, url: str) -> "Heard":
        """Ask a gateway or a node, and read as far as the answer goes."""
        body = bytearray()
        is_cut = False
        async with client.stream("POST", url + self.route, json=self.body) as answer:
            try:
                async for piece in answer.aiter_bytes():
                    body += piece
            except httpx.RemoteProtocolError:
                is_cut = True
        return Heard(answer, bytes(body), is_cut)

    async def break_first(self, fault: Fault | TcpFault | None, *, is_cold: bool) -> None:
        """Switch the fault on; where none has the model in memory, for whichever is asked first."""
        if is_cold:
            self.other.state.faults = self.first.state.faults
        if isinstance(fault, TcpFault):
            if (
                fault.kind == "endless_line" and not self.is_streamed
            ):  # which is passed on to its end
                fault = replace(fault, size_bytes=16 * MIB)
            await self.proxy.set_fault(fault)
        elif fault is not None:
            self.first.set_fault(replace(fault, times=1) if is_cold else fault)

    def has_struck(self, fault: Fault | TcpFault | None) -> bool:
        """Whether the fault was met, as far as the nodes can see it."""
        if isinstance(fault, TcpFault) and fault.kind != "backlog_full":
            return self.proxy.struck > 0
        return True


@dataclass(frozen=True)
class Heard:
    """What a client got."""

    answer: httpx.Response
    body: bytes
    is_cut: bool

    @property
    def records(self) -> list[Any]:
        """The lines or events as JSON; None for one that is none, and ``[DONE]`` as it is."""
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n")]
        return [_parsed(line) for line in lines if line]

    @property
    def text(self) -> str:
        """What the model said, or the vectors."""
        return "".join(map(_said, self.records))


def _parsed(line: bytes) -> Any:
    if line == b"[DONE]":
        return "[DONE]"
    try:
        return json.loads(line)
    except ValueError:
        return None


def _said(record: Any) -> str:
    if not isinstance(record, dict):
        return ""
    if "embeddings" in record:
        return json.dumps(record["embeddings"])
    if record.get("choices"):
        choice = record["choices"][0]
        return str((choice.get("delta") or choice.get("message") or {}).get("content") or "")
    return str(record.get("response") or record.get("message", {}).get("content", ""))


@dataclass(frozen=True)
class Rig:
    """What a case of the matrix runs on."""

    running: RunningGateway
    pairs: list[Pair]
    client: httpx.AsyncClient


@contextlib.asynccontextmanager
async def a_rig(case: Case) -> AsyncIterator[Rig]:
    """Run a gateway over a pair for each route, streamed and not; the fault is not on yet."""
    async with contextlib.AsyncExitStack() as stack:
        pairs = [
            await _pair(stack, case, route, stream) for route in Route for stream in (True, False)
        ]
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=ANSWERED_S))
        if not case.is_cold:
            for pair in pairs:
                await client.post(f"{pair.first.url}/api/generate", json={"model": pair.model.name})
        nodes = [url for pair in pairs for url in (pair.first_url, pair.other.url)]
        running = await stack.enter_async_context(running_gateway(*nodes, **_SETTINGS))
        yield Rig(running, pairs, client)


async def _pair(stack: contextlib.AsyncExitStack, case: Case, route: Route, stream: bool) -> Pair:
    letter = f"{list(Route).index(route)}{'s' if stream else 'w'}"
    model = SimModel(f"m{letter}", capabilities=("completion", "embedding"))
    config = SimConfig(models=(model,))
    first, other = [await stack.enter_async_context(SimNode(config)) for _ in range(2)]
    proxy = await stack.enter_async_context(FaultProxy(first.port))
    url = proxy.url if isinstance(case.fault, TcpFault) else first.url
    if case.fault is None:
        url = f"http://{letter}{_NAMES}:{first.port}"
    return Pair(model, route, stream, first, proxy, other, url)


def open_files() -> dict[str, str]:
    """Return what this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found
