"""Pull, push and create: nodes work for minutes and tell how far they are; the client sees one stream.

Each node is read by a task of its own, so that a slow one holds up nobody; the client is written
to by the task that serves the request, so that a slow client holds up no node. Between them is
``wire/progress.py``, which keeps only what is news.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from sollol.errors import ClientDisconnected, FleetFailed, SollolError, UpstreamCut
from sollol.gateway.fleet import HOLD_BYTES, Ask, Fleet, Nodes
from sollol.gateway.relay import Downstream
from sollol.gateway.verdict import NodeAnswer, unanimous
from sollol.nodes.registry import Node
from sollol.upstream.http import UpstreamResponse
from sollol.wire.bodies import JSON, ollama_error
from sollol.wire.ollama import NDJSON_TYPE
from sollol.wire.progress import ProgressMerger
from sollol.wire.streams import WholeLines


class FleetStream:
    """One request that several nodes work on."""

    def __init__(
        self, fleet: Fleet, ask: Ask, nodes: Nodes, downstream: Downstream, *, is_stream: bool
    ) -> None:
        self._fleet = fleet
        self._ask = ask
        self._nodes = nodes
        self._downstream = downstream
        self._is_stream = is_stream
        self._merger = ProgressMerger([node.view.id for node in nodes])
        self._news = asyncio.Event()
        self._broken: list[NodeAnswer] = []
        """Of the nodes that did not come to a last record: what they said instead, or the error."""

    async def run(self) -> None:
        """Let all nodes work, and answer the client: with the progress, or only with its end.

        Raises:
            SollolError: not all nodes did it. What was sent before, ``downstream`` says.
        """
        gone: ClientDisconnected | None = None
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(self._follow(node)) for node in self._nodes]
            try:
                await self._tell()
            except ClientDisconnected as error:  # it does not read
                gone = error
                for task in following:
                    task.cancel()
        if gone is not None:
            raise gone
        await self._conclude()

    async def _tell(self) -> None:
        """Pass on what is news until no node is at work any more."""
        is_done = False
        while not is_done:
            await self._news.wait()
            self._news.clear()
            is_done = self._merger.is_done  # now: while the client is waited for, more may come
            records = self._merger.take() if self._is_stream else b""
            if records:
                await self._push(records)

    async def _push(self, records: bytes) -> None:
        if not self._downstream.is_started:
            self._start()
        if self._downstream.push(records):
            await self._downstream.wait_room()

    def _start(self) -> None:
        self._downstream.start(200, [(b"content-type", NDJSON_TYPE)], is_stream=True)

    async def _conclude(self) -> None:
        downstream, error = self._downstream, self._merger.error
        if len(self._broken) == len(self._nodes):
            self._pass_on(self._broken)
            return
        if not self._is_stream:
            status, body = (
                (500, ollama_error(error)) if error else (200, self._merger.success.strip())
            )
            downstream.answer(status, [(b"content-type", JSON)], body)
            if error:
                raise FleetFailed(error)
            return
        if not downstream.is_started:
            self._start()
        if error:
            raise FleetFailed(error)
        await downstream.finish(self._merger.success)

    def _pass_on(self, answers: Sequence[NodeAnswer]) -> None:
        """Say why no node came to an end: as the nodes say it, where they agree."""
        refusal = unanimous(answers)
        if refusal is None:
            raise FleetFailed(self._merger.error)
        headers = [(b"content-type", refusal.content_type)]
        self._downstream.answer(refusal.status, headers, refusal.body)

    async def _follow(self, node: Node) -> None:
        """Read one node to its end; whatever goes wrong there is news about it."""
        node_id = node.view.id
        try:
            upstream = await node.management.send(self._ask.request(node))
            try:
                await self._read(node_id, upstream)
            finally:
                upstream.close()
        except SollolError as error:
            self._broken.append(NodeAnswer(node_id, error=error))
            self._merger.failed(node_id, str(error))
        else:
            if self._merger.is_working(node_id):
                await self._fleet.refresh([node])
                self._merger.succeed(node_id)
        self._news.set()

    async def _read(self, node_id: str, upstream: UpstreamResponse) -> None:
        """Read a node's records up to its last one, the only one of an answer that is no stream."""
        if upstream.status != HTTPStatus.OK:
            body = await upstream.read_all(HOLD_BYTES)
            answer = NodeAnswer(node_id, upstream.status, upstream.content_type, body)
            self._broken.append(answer)
            self._merger.failed(node_id, answer.text)
            return
        if not self._is_stream:
            whole = await upstream.read_all(HOLD_BYTES)
            if not self._merger.feed(node_id, whole.strip() + b"\n"):
                raise UpstreamCut("its answer does not say whether it succeeded")
            return
        lines = WholeLines()
        while piece := await upstream.read():
            for line in lines.feed(piece).splitlines(keepends=True):
                if line.strip() and self._merger.feed(node_id, line):
                    return
            self._news.set()
        if not lines.rest() or not self._merger.feed(node_id, lines.rest() + b"\n"):
            raise UpstreamCut("it ended before it said whether it succeeded")
