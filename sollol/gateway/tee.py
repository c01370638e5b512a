"""One body sent to several nodes at the same time, at the pace of the slowest.

Nothing is kept but the piece under way: the next is not taken from the caller before every node
that still takes the body has begun to send this one.
"""

import asyncio
from collections.abc import AsyncIterator


class Branch(AsyncIterator[bytes]):
    """The body as one node gets it. Not a generator: a cancelled one would be left to be closed."""

    def __init__(self, tee: "Tee") -> None:
        self._tee = tee
        self._arrived = asyncio.Event()
        self.piece: bytes | None = None

    def give(self, piece: bytes) -> None:
        """Hand over the next piece; only when the last was taken. An empty one is the end."""
        self.piece = piece
        self._arrived.set()

    async def __anext__(self) -> bytes:
        """Return the next piece."""
        await self._arrived.wait()
        piece = self.piece
        if not piece:
            raise StopAsyncIteration
        self.piece = None
        self._arrived.clear()
        self._tee.piece_taken()
        return piece


class Tee:
    """The branches of one body. A node that answers, or fails, closes its branch."""

    def __init__(self) -> None:
        self._open: list[Branch] = []
        self._room = asyncio.Event()

    def branch(self) -> Branch:
        """Return a new branch; before the first piece."""
        branch = Branch(self)
        self._open.append(branch)
        return branch

    def close(self, branch: Branch) -> None:
        """Give a branch nothing more; the others no longer wait for it."""
        self._open.remove(branch)
        self._room.set()

    async def put(self, piece: bytes) -> None:
        """Hand a piece to every open branch once all have taken the last one."""
        while any(branch.piece is not None for branch in self._open):
            self._room.clear()
            await self._room.wait()
        for branch in self._open:
            branch.give(piece)

    def piece_taken(self) -> None:
        """Wake up whoever has the next piece."""
        self._room.set()
