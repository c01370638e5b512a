"""Finds out what the coordinator of a model does not notice itself: that a worker has gone, or hangs."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from sollol.errors import CoordinatorFailed, WorkerFailed
from sollol.gateway.workers import Coordinator
from sollol.sharding.rpc import private_target
from sollol.sharding.silence import FLOOR_S, Silence, limit_s
from sollol.sharding.sockets import closed, waits

LOAD_SILENCE_S = 120.0
"""No worker is silent for longer while a model is loaded, but by the plan: it may write a tensor to a
slow disk."""


LET_IN_S = FLOOR_S
"""No worker that is free takes longer to make room: it has just been asked, so its devices are up."""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How long a load may take, and how often it is looked at.

    ``silence_s``: how long a worker may be silent; ``let_in_s``: before it is sent anything of the model.
    """

    timeout_s: float
    silence_s: float
    let_in_s: float
    look_s: float = 1.0


class ShardWatch:
    """Looks at one coordinator, from outside.

    Args:
        pid: its process; None where it has none to look at.
        served: the port that it listens on.
        workers: what people call its workers, by the addresses that it has connections to.
        tokens_per_s: as its plan expects them.
        silence: what is known of how long these workers may be silent.
    """

    def __init__(
        self,
        pid: int | None,
        served: int,
        workers: dict[str, str],
        tokens_per_s: float,
        silence: Silence,
        clock: Callable[[], float],
    ) -> None:
        self._pid = pid
        self._served = served
        self._workers = workers
        self._tokens_per_s = tokens_per_s
        self._silence = silence
        self._clock = clock
        silence.forget()

    async def left(self) -> str:
        """Say which worker an idle coordinator has lost; empty if none."""
        self._silence.forget()
        if self._pid is None:
            return ""
        gone = await asyncio.to_thread(closed, self._pid, self._workers, self._served)
        return f"worker {self._workers[gone[0]]} was lost" if gone else ""

    async def hung(self, asked_bytes: int) -> str:
        """Say which worker a coordinator waits for that will not answer any more; empty if none.

        Args:
            asked_bytes: of all requests that it has.
        """
        if self._pid is None:
            return ""
        found = await asyncio.to_thread(waits, self._pid, self._workers, self._served)
        now = self._clock()
        self._silence.look(found, now)
        worker, silent_s = self._silence.worst(now)
        if silent_s <= limit_s(asked_bytes, self._tokens_per_s, self._silence.longest_s):
            return ""
        return f"worker {self._workers[worker]} hangs: it was silent for {silent_s:.0f} s"


async def start_watched(
    coordinator: Coordinator,
    workers: dict[str, str],
    limits: LoadLimits,
    clock: Callable[[], float],
) -> None:
    """Start a coordinator, or give up when a worker keeps it waiting.

    Two gateways that begin at the same moment both find a worker free. It lets the first one in, and the
    second wait without a word until that has left.

    Args:
        workers: what people call its workers, by the addresses that it has connections to.

    Raises:
        CoordinatorFailed: it could not be started, or a worker was silent for too long.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_watch_load(coordinator, workers, limits, clock))
            await coordinator.start(limits.timeout_s)
            watching.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _watch_load(
    coordinator: Coordinator,
    workers: dict[str, str],
    limits: LoadLimits,
    clock: Callable[[], float],
) -> None:
    silence = Silence()
    while True:
        await asyncio.sleep(limits.look_s)
        if coordinator.pid is None:
            continue
        served = int(coordinator.url.rpartition(":")[2])
        found = await asyncio.to_thread(waits, coordinator.pid, workers, served)
        now = clock()
        silence.look(found, now)
        worker, silent_s = silence.worst(now)
        if not coordinator.is_sending and silent_s > limits.let_in_s:
            raise CoordinatorFailed(
                f"Worker {workers[worker]} let nobody in for {silent_s:.0f} s: another gateway took it at the "
                "same moment, or it hangs. A worker serves one gateway at a time, until its model is unloaded "
                "there."
            )
        if silent_s > limits.silence_s:
            raise CoordinatorFailed(
                f"Worker {workers[worker]} said nothing for {silent_s:.0f} s while the model was loaded: "
                "it hangs, or is too slow."
            )


async def addresses(workers: Iterable[str]) -> dict[str, str]:
    """Return workers by address and port; one whose name cannot be looked up by its name."""
    found: dict[str, str] = {}
    for worker in workers:
        target = worker
        with suppress(OSError, WorkerFailed):
            host, port = await private_target(worker)
            target = f"{host}:{port}"
        found[target] = worker
    return found
