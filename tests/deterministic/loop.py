"""An asyncio event loop on a virtual clock: no sockets, no waiting, the same order every time.

Time stands still while anything is ready to run, and then jumps to the next timer. Every timer is
put on a grid of 10 ms, so that things happen in the same moment which in the world nearly do.
"""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Protocol, cast

TICKS_A_SECOND = 100
GRID_S = 1 / TICKS_A_SECOND


class Deadlock(AssertionError):
    """Somebody waits, and nothing is left that could happen."""


class OutOfTime(AssertionError):
    """The run went on for longer than it should, in virtual seconds."""


class Network(Protocol):
    """Makes connections in place of the system (``network.py``)."""

    def connect(self, protocol: asyncio.Protocol, host: str) -> Awaitable[asyncio.Transport]:
        """Connect to a host; OSError as the system raises it."""
        ...


class _Selector(selectors.SelectSelector):
    """Selects nothing, ever: where the loop would wait for sockets, the clock goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return nothing, at the time when the next timer is due."""
        self.loop.turn(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. ``now`` counts hundredths of seconds from 0.

    Attributes:
        network: where ``create_connection`` leads.
        on_turn: called between two turns, when all that was ready has run.
        on_pause: called before the clock moves, when nothing is left to do at a moment.
        end: the last moment, in seconds; going past it is an error.
    """

    def __init__(self) -> None:
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self
        self.now = 0
        self.network: Network | None = None
        self.on_turn: Callable[[], None] | None = None
        self.on_pause: Callable[[], None] | None = None
        self.end = math.inf

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now / TICKS_A_SECOND

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call later, on the grid; never at this moment, however short the delay."""
        tick = max(self.now + 1, math.ceil(when * TICKS_A_SECOND - 1e-6))
        return super().call_at(tick / TICKS_A_SECOND, callback, *args, context=context)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect over the simulated network."""
        assert self.network is not None
        protocol = protocol_factory()
        return await self.network.connect(protocol, host), protocol

    def turn(self, timeout: float | None) -> None:
        """Let the clock go on by ``timeout`` seconds; None is said when no timer is left."""
        if self.on_turn is not None:
            self.on_turn()
        if timeout == 0 or cast(Any, self)._ready:
            return
        if timeout is None:
            raise Deadlock("nothing is left to happen")
        if self.on_pause is not None:
            self.on_pause()
            if cast(Any, self)._ready:
                return
        self.now += max(1, round(timeout * TICKS_A_SECOND))
        if self.time() > self.end:
            raise OutOfTime(f"not over after {self.end:g} virtual seconds")
