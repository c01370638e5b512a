"""A worker of this machine: an RPC server of llama.cpp that is started again when it ends."""

import asyncio
import errno
import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import structlog

from sollol.errors import WorkerFailed
from sollol.llamacpp.binaries import LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.llamacpp.embedded import RestartDelay, default_threads
from sollol.llamacpp.process import ChildProcess
from sollol.llamacpp.restarts import CRASH_WINDOW_S, CRASHES_TO_GIVE_UP, restart_delay_s
from sollol.ports import HOST, free_port
from sollol.settings import WorkerSettings
from sollol.settings.address import RPC_PORT
from sollol.sharding.host_memory import available_bytes
from sollol.sharding.kept_weights import KeptWeights, cache_directory, with_home
from sollol.sharding.memory import GIB
from sollol.sharding.rpc import Device, Probe, probe

log = structlog.get_logger()

STOP_GRACE_S = 2.0
POLL_S = 0.05
LOOK_S = 5.0
_NOT_LISTENING = "Failed to create server socket"
_SAME = 0.02
"""A device whose memory differs by less from this machine's is its CPU."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker runs. ``host``: an address of this machine. ``has_cache``: it keeps weights."""

    host: str = HOST
    port: int = RPC_PORT
    threads: int | None = None
    has_cache: bool = True

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        return f"{self.host}:{self.port}"


class RpcWorker:
    """Runs an RPC server until it is cancelled.

    Args:
        on_ready: called in the event loop each time that it listens, with what it tells of itself.
        look_s: seconds between two looks at what it has kept on the disk.

    Raises:
        WorkerFailed: there is no place to keep weights.
    """

    def __init__(
        self,
        binaries: LlamaBinaries,
        options: WorkerOptions,
        on_ready: Callable[[Probe], None],
        *,
        restart_delay: RestartDelay = restart_delay_s,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        self.address = options.address
        self._binaries = binaries
        self._environment = binaries.environment
        if options.has_cache:
            self._environment = with_home(binaries.environment, os.geteuid())
        self.folder = cache_directory(self._environment)
        """Where it keeps weights, if it does."""
        self._options = options
        self._on_ready = on_ready
        self._restart_delay = restart_delay
        self._clock = clock
        self._look_s = look_s
        self._kept = KeptWeights(self.folder)
        self._deaths: deque[float] = deque(maxlen=CRASHES_TO_GIVE_UP)
        self._was_ready = False

    async def run(self) -> NoReturn:
        """Run it, again and again when it ends; on the way out no process is left.

        Raises:
            WorkerFailed: it cannot be started, or it ends too often.
        """
        check_listening(self._options)
        while True:
            text = await self._run_once()
            if not self._was_ready:
                raise WorkerFailed(f"the RPC server cannot run at {self.address}: {text}")
            self._deaths.append(self._clock())
            delay_s = self._restart_delay(self._deaths, self._clock())
            if delay_s is None:
                raise WorkerFailed(
                    f"the RPC server ended {CRASHES_TO_GIVE_UP} times within {CRASH_WINDOW_S:g} s, "
                    f"at last: {text}"
                )
            log.warning("worker_ended", address=self.address, reason=text, restart_in_s=delay_s)
            await self._drop(self._kept.drop_last_read, "it ended when it had read this last")
            await asyncio.sleep(delay_s)

    async def _run_once(self) -> str:
        """Run it until it ends; return why, in words."""
        command = rpc_server_command(self._binaries, self._options)
        await self._drop(self._kept.drop_doubtful, "they may be incomplete, or are no files")
        child = await ChildProcess.start(command, env=self._environment)
        try:
            told = await self._first_answer(child)
            if told is not None:
                self._was_ready = True
                self._on_ready(told)
            return _ending(await self._end_of(child), child.log_tail())
        finally:
            await child.stop(STOP_GRACE_S)

    async def _drop(self, drop: Callable[[], list[str]], reason: str) -> None:
        """Clear out kept weights that are not to be trusted."""
        dropped = await asyncio.to_thread(drop) if self._options.has_cache else []
        if dropped:
            log.warning("weights_dropped", files=len(dropped), first=dropped[0], reason=reason)

    async def _end_of(self, child: ChildProcess) -> int:
        """Wait for the end of a server, and take note of what it has kept until then."""
        while self._options.has_cache and child.returncode is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await child.wait()
            await asyncio.to_thread(self._kept.look, child.pid)
        return await child.wait()

    async def _first_answer(self, child: ChildProcess) -> Probe | None:
        """Wait until it listens; None when it ends before. One that is already used tells nothing."""
        while child.returncode is None:
            if await _is_listening(self._options):
                with suppress(WorkerFailed):
                    return await probe(self.address)
                return Probe(self.address)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await child.wait()
        return None


class LocalWorker:
    """The worker that the gateway itself runs on loopback (``sharding.local_worker_gb``).

    Its owner runs :meth:`run` in a task and cancels it at the end.
    """

    def __init__(
        self,
        memory_gb: float,
        find: Callable[[], LlamaBinaries] = find_binaries,
        restart_delay: RestartDelay = restart_delay_s,
    ) -> None:
        self.settings: WorkerSettings | None = None
        """What a plan must know of it; None while it cannot be used."""
        self.ready = asyncio.Event()
        """Set once it can be used for the first time, or never will be."""
        self._memory_gb = memory_gb
        self._find = find
        self._restart_delay = restart_delay

    async def run(self) -> None:
        """Run it until cancelled; if it cannot run, say so in the log and return."""
        try:
            binaries = await asyncio.to_thread(self._find)
            options = WorkerOptions(port=free_port())
            worker = RpcWorker(binaries, options, self._take, restart_delay=self._restart_delay)
            await worker.run()
        except (LlamaCppUnavailable, WorkerFailed) as error:
            log.error("local_worker_failed", reason=str(error))
        finally:
            self.settings = None
            self.ready.set()

    def _take(self, told: Probe) -> None:
        self.settings = WorkerSettings(address=told.address, memory_gb=self._memory_gb)
        self.ready.set()
        log.info("local_worker_ready", address=told.address, memory_gb=self._memory_gb)


def rpc_server_command(binaries: LlamaBinaries, options: WorkerOptions) -> list[str]:
    """Return the command that runs an RPC server.

    Raises:
        WorkerFailed: this llama.cpp has none.
    """
    if binaries.rpc_server is None:
        raise WorkerFailed(
            f"there is no RPC server beside {binaries.server}; llama.cpp has one when it is built "
            "with -DGGML_RPC=ON"
        )
    words = [str(binaries.rpc_server), "--host", options.host, "--port", str(options.port)]
    words += ["--threads", str(options.threads or default_threads())]
    return [*words, "--cache"] if options.has_cache else words


def check_listening(options: WorkerOptions) -> None:
    """Return if a server can listen there; an RPC server itself would not say why not.

    Raises:
        WorkerFailed: the port is taken, or the address is not one of this machine.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((options.host, options.port))
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            raise WorkerFailed(
                f"an RPC server cannot listen at {options.address}: "
                f"{os.strerror(error.errno or 0)}; "
                + ("--port takes another port" if is_taken else "--host takes one of this machine")
            ) from None


def memory_to_offer_gb(devices: tuple[Device, ...], available: int, in_all: int) -> float:
    """Return what a worker may take, in units of 1024^3 bytes, with one decimal.

    Args:
        devices: as it tells of them; a CPU says that all memory of its machine is free.
        available: what this machine has left, in bytes.
        in_all: all memory of this machine, in bytes.
    """
    free = sum(
        min(device.free_bytes, available)
        if math.isclose(device.total_bytes, in_all, rel_tol=_SAME)
        else device.free_bytes
        for device in devices
    )
    return math.floor(free / GIB * 10) / 10


def offered_gb(told: Probe) -> float:
    """Return what a ready worker of this machine may take; see :func:`memory_to_offer_gb`."""
    in_all = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return memory_to_offer_gb(told.devices, available_bytes(), in_all)


async def _is_listening(options: WorkerOptions) -> bool:
    try:
        _, writer = await asyncio.open_connection(options.host, options.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _ending(returncode: int, log_tail: str) -> str:
    if _NOT_LISTENING in log_tail:
        return "it cannot listen there; is the port taken?"
    last = log_tail.rpartition("\n")[2].strip()
    how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return f"it ended with {how}" + (f" ({last})" if last else "")
