"""The coordinator: a llama-server that runs one model over the workers of a plan.

That it answers proves nothing: builds of llama.cpp that cannot reach a worker go on without it, on
this machine alone. So a start is one only when the log says of every worker what it holds.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sollol.errors import CoordinatorFailed
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.llamacpp.embedded import default_threads
from sollol.llamacpp.process import LOG_LINES
from sollol.llamacpp.server import LlamaServer, LlamaServerFailed, ending_text
from sollol.sharding.allocation_log import AllocationLog
from sollol.sharding.allocations import Allocation
from sollol.sharding.command import Launch, links, server_arguments
from sollol.sharding.ending import MAX_REASON_CHARACTERS, is_worker_lost, reason
from sollol.sharding.host_memory import available_bytes
from sollol.sharding.link_folder import link_folder
from sollol.sharding.loading import (
    LoadProgress,
    LoadWatch,
    is_mapped,
    mapped_bytes_of,
    read_bytes_of,
)
from sollol.sharding.models import LocalModel
from sollol.sharding.plan import Plan
from sollol.sharding.rpc import Probe, probe_all

STOP_GRACE_S = 10.0


ProgressCallback = Callable[[LoadProgress], None]


class CoordinatorProcess:
    """One run of a coordinator; use an object for one start.

    Args:
        name: what requests call the model (``--alias``); several names with commas.
        threads: of this machine; half of its cores by default.
        on_progress: called in the event loop while the model is loaded, with growing shares.
    """

    def __init__(
        self,
        binaries: LlamaBinaries,
        plan: Plan,
        model: LocalModel,
        *,
        name: str,
        threads: int | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self.placement: Mapping[str, Allocation] = {}
        self._binaries = binaries
        self._plan = plan
        self._model = model
        self._workers = [share.worker.name for share in plan.shares]
        self._name = name
        self._threads = threads or default_threads()
        self._on_progress = on_progress
        self._watch: LoadWatch | None = None
        self._is_mapped = is_mapped(model.facts.file_bytes, plan.cpu_layers, available_bytes())
        self._allocation_log = AllocationLog()
        self._server = LlamaServer(binaries, ())
        self._is_stopped = False

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; meaningful once started."""
        return self._server.url

    @property
    def api_key(self) -> str:
        """The bearer token it wants."""
        return self._server.api_key

    @property
    def pid(self) -> int | None:
        """The process id, or None before there is a process."""
        return self._server.pid

    @property
    def is_sending(self) -> bool:
        """Whether all workers have let it in, and it sends them the model."""
        return self._allocation_log.has_begun

    async def start(self, timeout_s: float) -> None:
        """Return when it answers and every worker of the plan holds its part of the model.

        On failure, and when cancelled, no process is left.

        Raises:
            CoordinatorFailed: a worker or llama-server failed, or ``timeout_s`` went by.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._start(timeout_s)
        except TimeoutError:
            text = f"llama-server was not ready within {timeout_s:g} s"
            raise await self._failure(f"{text}; sharding.load_timeout_s may be more") from None
        except LlamaServerFailed as error:
            raise await self._failure(self._unexplained(str(error))) from None
        except OSError as error:
            raise CoordinatorFailed(
                f"llama-server could not be started: {error}. It needs a directory for temporary files "
                "(TMPDIR), and room for one more process."
            ) from None

    async def wait(self) -> str:
        """Wait for the end of a started coordinator; return what ended it, in words."""
        returncode = await self._server.wait()
        if is_worker_lost(self._log()):
            return await self._lost_workers() or self._doubtful()
        return self._reason() or ending_text(returncode)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the process, also one that another task is starting; see ChildProcess.stop."""
        self._is_stopped = True
        await self._server.stop(grace_s)

    async def _start(self, timeout_s: float) -> None:
        probes = await probe_all(self._workers)
        _check_usable(probes)
        try:
            with link_folder(links(self._model.stored)) as directory:
                self._server = self._made(directory, probes)
                if self._is_stopped:
                    raise LlamaServerFailed("it was stopped while it was starting")
                await self._server.start(timeout_s)
            await self._check_placement()
        except BaseException:
            await self.stop(grace_s=0)
            raise
        if self._watch is not None:
            self._watch.finish()

    def _made(self, directory: Path, probes: Sequence[Probe]) -> LlamaServer:
        if self._on_progress is not None:
            clock = asyncio.get_running_loop().time
            self._watch = LoadWatch(_read_in_all(self._model), self._on_progress, clock)
        devices = {probe.address: len(probe.devices) for probe in probes}
        launch = Launch(self._name, directory, self._threads, devices, self._is_mapped)
        return LlamaServer(
            self._binaries,
            server_arguments(self._plan, self._model, launch),
            cwd=directory,
            on_line=self._allocation_log.read,
            on_poll=self._look_at_load,
        )

    def _look_at_load(self) -> None:
        if self._watch is not None:
            taken_bytes_of = mapped_bytes_of if self._is_mapped else read_bytes_of
            self._watch.look(taken_bytes_of(self.pid))

    async def _check_placement(self) -> None:
        self.placement = await self._allocation_log.allocations()
        holding = [name for name, held in self.placement.items() if held.weight_mib > 0]
        empty = [name for name in self._workers if name not in holding]
        if empty:
            raise CoordinatorFailed(
                f"llama-server started without {' and '.join(empty)}, so it was stopped. "
                "Install the same llama.cpp on all machines."
            )

    async def _failure(self, text: str) -> CoordinatorFailed:
        lost = await self._lost_workers()
        if not lost and is_worker_lost(self._log()):
            lost = self._doubtful()
        told = self._reason() or text
        return CoordinatorFailed(f"{lost}: {told}" if lost else told)

    async def _lost_workers(self) -> str:
        """Say which workers do not answer; empty if all do."""
        probes = await probe_all(self._workers)
        return " and ".join(f"worker {probe.address} was lost" for probe in probes if probe.error)

    def _unexplained(self, text: str) -> str:
        """Return how llama-server ended, its last words, and how to look into that."""
        last = self._server.log_tail(1).strip()[:MAX_REASON_CHARACTERS]
        ended = text.partition("; its last output")[0]
        said = f" ({last})" if last else ""
        return f"{ended}{said}. See whether it works: {self._binaries.server} --version"

    def _doubtful(self) -> str:
        return f"worker {' or '.join(self._workers)} failed, and answers again"

    def _reason(self) -> str:
        return reason(self._log())

    def _log(self) -> list[str]:
        return self._server.log_tail(LOG_LINES).splitlines()


def _read_in_all(model: LocalModel) -> int:
    facts = model.facts
    return max(facts.file_bytes, facts.weight_bytes) + facts.side_bytes


def _check_usable(probes: Sequence[Probe]) -> None:
    errors = [f"worker {probe.address}: {probe.error}" for probe in probes if probe.error]
    if errors:
        raise CoordinatorFailed("; ".join(errors))
