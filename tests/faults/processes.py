"""Simulated nodes as processes that can be killed, and a steady load of short requests."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sollol.bench.common.children import Child, Children
from sollol.ports import free_port
from tests.gateways import RunningGateway, wait_for
from tests.one_model import port_of
from tests.raw_http import RawAnswer, render, talk

MODEL = "llama3.2:3b"
_NODE = (
    *("-m", "sollol.bench.sim", "--models", MODEL),
    *("--slots", "2", "--load-gib-per-s", "200", "--decode-tok-s", "500"),  # 40 ms an answer
)


class NodeProcess:
    """A simulated node in a process of its own; it keeps its port when it is started again."""

    def __init__(self, children: Children) -> None:
        self.port = free_port()
        self._children = children
        self._child: Child

    @property
    def id(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and return when it listens."""
        command = [sys.executable, *_NODE, "--port", str(self.port)]
        self._child = self._children.start(f"node-{self.port}", command)
        await asyncio.to_thread(self._child.wait_listening, self.port)

    async def end(self, how: signal.Signals) -> None:
        """Send a signal and return when the process is gone."""
        self._child.process.send_signal(how)
        await asyncio.to_thread(self._child.process.wait)


@asynccontextmanager
async def node_processes(folder: Path, count: int) -> AsyncIterator[list[NodeProcess]]:
    """Run nodes; whatever became of them, none is left."""
    with Children(folder) as children:
        nodes = [NodeProcess(children) for _ in range(count)]
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request ended; ``number`` says when it was sent."""

    number: int
    answer: RawAnswer

    @property
    def node(self) -> str:
        return dict(self.answer.headers).get("x-sollol-node", "")

    @property
    def is_right(self) -> bool:
        if (self.answer.status, self.answer.ending) != (200, "eof"):
            return False
        record = json.loads(self.answer.body)
        return bool(record["done"]) and record["eval_count"] == _TOKENS


_TOKENS = 20


class Load:
    """Sends so many requests a second for whole answers, whatever becomes of them."""

    def __init__(self, running: RunningGateway, rate_per_s: float) -> None:
        self.ended: list[Answered] = []
        self.sent = 0
        self._port = port_of(running)
        self._interval_s = 1.0 / rate_per_s
        self._is_over = False

    @property
    def failed(self) -> list[bytes]:
        """What came of those that were not answered as they should."""
        wrong = [each.answer for each in self.ended if not each.is_right]
        return [answer.head + answer.body[:200] for answer in wrong]

    @asynccontextmanager
    async def applied(self) -> AsyncIterator["Load"]:
        """Send while the block runs; at its end wait for what is under way."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(tasks))
            try:
                yield self
            finally:
                self._is_over = True

    async def wait_served_by(self, node: NodeProcess, timeout_s: float = 10.0) -> None:
        """Return once a node has answered a request that is sent from here on."""
        since = self.sent
        await wait_for(
            lambda: any(e.number >= since and e.node == node.id for e in self.ended[-400:]),
            timeout_s,
        )

    async def wait_ended(self, before: int) -> None:
        """Return once all requests with a lower number have ended, soon or, on a busy machine, late."""
        await wait_for(lambda: sum(each.number < before for each in self.ended) == before, 40)

    async def _send(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while not self._is_over:
            tasks.create_task(self._ask(self.sent))
            self.sent += 1
            await asyncio.sleep(max(0.0, begin + self.sent * self._interval_s - loop.time()))

    async def _ask(self, number: int) -> None:
        options = {"num_predict": _TOKENS}
        asked = {"model": MODEL, "prompt": f"{number}", "stream": False, "options": options}
        body = json.dumps(asked).encode()
        request = render("POST", "/api/generate", body, {"Connection": "close"})
        self.ended.append(Answered(number, await talk(self._port, request, quiet_s=60.0)))
