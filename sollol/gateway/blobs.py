"""Files that models are made of: uploaded to several nodes at once, and where they are.

A node makes a model only of blobs that it has itself, so a request to create one must land where
its blobs went. The nodes check digests: each hashes what it gets and refuses what does not match.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from sollol.errors import SollolError
from sollol.gateway.fleet import HOLD_BYTES, Ask, Fleet, Headers, Nodes, headers_for
from sollol.gateway.targets import ONE, Views, holders, named, pull_to, up
from sollol.gateway.tee import Branch, Tee
from sollol.gateway.verdict import NodeAnswer
from sollol.nodes.registry import Node
from sollol.types import NodeView
from sollol.upstream.http import UpstreamRequest
from sollol.wire.manage import BLOBS, CREATE, ManageBody

MAX_BLOBS = 4096
"""Blobs whose nodes are remembered; of others the nodes are asked."""

HOME_S = 3600.0
"""How long one node goes on getting all blobs, where only one gets them; a node keeps a blob that
nothing uses for as long."""

Read = Callable[[], Awaitable[bytes]]
"""Returns the next piece of the caller's body, empty at its end."""


class BlobTable:
    """Which nodes have a blob, as far as is known; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, set[str]] = OrderedDict()

    def note(self, digest: str, node: str, *, has_it: bool) -> None:
        """Take note that a node has a blob, or not."""
        nodes = self._nodes.setdefault(digest, set())
        self._nodes.move_to_end(digest)
        (nodes.add if has_it else nodes.discard)(node)
        if len(self._nodes) > MAX_BLOBS:
            self._nodes.popitem(last=False)

    def holders(self, digests: frozenset[str]) -> frozenset[str]:
        """Return the nodes that are known to have all of these blobs."""
        each = [self._nodes.get(digest, set()) for digest in digests]
        return frozenset(set.intersection(*each)) if each else frozenset()


class Blobs:
    """Uploads and finds blobs; owner of the table of where they are."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._clock = clock
        self._table = BlobTable()
        self._home: tuple[str, float] | None = None

    def targets(self, wanted: str | None) -> Nodes:
        """Return the nodes that a blob is for: those that a model made of it will be for.

        Raises:
            SollolError: there is none.
        """
        views = self._fleet.views()
        if wanted is not None:
            return self._fleet.nodes(named(views, wanted))
        able = up(views)
        if self._fleet.policy.pull_to != (ONE,):
            return self._fleet.nodes(pull_to(able, self._fleet.policy, self._fleet.rng))
        return self._fleet.nodes([self._at_home(able)])

    async def create_targets(self, body: ManageBody, wanted: str | None) -> Nodes:
        """Return the nodes that a model is made on: where all its blobs are, if it has any.

        Raises:
            SollolError: there is none.
        """
        if wanted is not None or not body.digests:
            return self._fleet.choose(CREATE, body, wanted)
        views = up(self._fleet.views())
        known = self._table.holders(body.digests)
        holding = [view for view in views if view.id in known or len(views) == 1]
        if not holding:
            having = await self._having_all(body.digests, self._fleet.nodes(views))
            holding = [node.view for node in having]
        if body.made_from:
            holding = [*holders(holding, body.source_key)] or holding
        # Where no node has them all, the node that is asked says so in Ollama's words.
        return self._fleet.nodes(holding) or self.targets(None)

    async def _having_all(self, digests: frozenset[str], nodes: Nodes) -> Nodes:
        """Return which of the nodes have all of these blobs.

        One blob after the other, and only nodes that had those before: a body can name any number.
        """
        for digest in sorted(digests):
            nodes = await self.find(digest, nodes)
            if not nodes:
                break
        return nodes

    async def find(self, digest: str, nodes: Nodes) -> Nodes:
        """Return which of the nodes have a blob; they are asked."""
        answers = await self._fleet.ask(Ask("HEAD", BLOBS + digest, []), nodes)
        for answer in answers:
            if answer.error is None:
                self._table.note(digest, answer.node, has_it=answer.is_ok)
        return [node for node, answer in zip(nodes, answers, strict=True) if answer.is_ok]

    async def upload(
        self, digest: str, nodes: Nodes, headers: Headers, length: int | None, read: Read
    ) -> Sequence[NodeAnswer]:
        """Send a body to all nodes as it comes, and return what each answers.

        A node that answers before its end, since it has the blob, or that fails, gets no more of
        it; the others go on. What is left of the body when no node takes more is not read.

        Args:
            length: of the body in bytes, if it is known.

        Raises:
            SollolError: of ``read``: the caller's body did not come to its end.
        """
        upload = _Upload(digest, headers, length)
        answers = await upload.run(nodes, read)
        for answer in answers:
            if answer.is_ok:
                self._table.note(digest, answer.node, has_it=True)
        return answers

    def _at_home(self, able: Views) -> NodeView:
        """Return the node that gets blobs where only one does, the same for all of a model."""
        now = self._clock()
        home = next((view for view in able if self._home and view.id == self._home[0]), None)
        if home is None or self._home is None or now - self._home[1] > HOME_S:
            (home,) = pull_to(able, self._fleet.policy, self._fleet.rng)
        self._home = (home.id, now)
        return home


class _Upload:
    """One body on its way to several nodes."""

    def __init__(self, digest: str, headers: Headers, length: int | None) -> None:
        self._path = BLOBS + digest
        self._headers = headers
        self._length = length
        self._tee = Tee()
        self._sending: list[asyncio.Task[NodeAnswer]] = []
        self._error: SollolError | None = None

    async def run(self, nodes: Nodes, read: Read) -> Sequence[NodeAnswer]:
        async with asyncio.TaskGroup() as group:
            branches = [(node, self._tee.branch()) for node in nodes]
            self._sending = [group.create_task(self._send(*pair)) for pair in branches]
            feeding = group.create_task(self._feed(read))
            await asyncio.wait(self._sending)
            feeding.cancel()
        if self._error is not None:
            raise self._error
        return [task.result() for task in self._sending]

    async def _feed(self, read: Read) -> None:
        try:
            while piece := await read():
                await self._tee.put(piece)
            await self._tee.put(b"")
        except SollolError as error:
            self._error = error
            for task in self._sending:
                task.cancel()

    async def _send(self, node: Node, branch: Branch) -> NodeAnswer:
        headers = headers_for(node, self._headers)
        request = UpstreamRequest("POST", self._path, headers, branch, self._length)
        try:
            upstream = await node.management.send(request)
            try:
                body = await upstream.read_all(HOLD_BYTES)
            finally:
                upstream.close()
        except SollolError as error:
            return NodeAnswer(node.view.id, error=error)
        finally:
            self._tee.close(branch)
        return NodeAnswer(node.view.id, upstream.status, upstream.content_type, body)
