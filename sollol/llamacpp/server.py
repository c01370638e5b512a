"""One run of ``llama-server``: started on a free port of this machine, and waited for."""

import asyncio
import secrets
import signal
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path

from sollol.errors import SollolError
from sollol.llamacpp.binaries import LlamaBinaries
from sollol.llamacpp.process import ChildProcess, LineCallback
from sollol.llamacpp.tether import CANNOT_RUN
from sollol.ports import HOST, free_port, is_taken
from sollol.upstream.control import ControlClient

BIND_ATTEMPTS = 3
"""Between choosing a port and binding it another program may take it."""
POLL_S = 0.05
PROBE_TIMEOUT_S = 2.0
STOP_GRACE_S = 10.0


class LlamaServerFailed(Exception):
    """llama-server did not become ready; the text says why and ends with its last output."""


def ending_text(returncode: int) -> str:
    """Say in words how llama-server ended."""
    if returncode == -signal.SIGILL:
        return "llama-server used an instruction this CPU lacks; its build needs AVX2"
    if returncode == CANNOT_RUN:
        return "llama-server cannot be executed"
    if returncode < 0:
        return f"llama-server was ended by signal {-returncode}"
    return f"llama-server ended with exit code {returncode}"


class LlamaServer:
    """A ``llama-server`` child. Each start has its own port and key; use an object for one start.

    The key keeps other users of this machine out. It travels in the environment, since everybody
    can read a command line.

    Args:
        on_line: called with each line of output.
        on_poll: called again and again until it answers.
    """

    def __init__(
        self,
        binaries: LlamaBinaries,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        on_line: LineCallback | None = None,
        on_poll: Callable[[], None] | None = None,
        choose_port: Callable[[], int] = free_port,
    ) -> None:
        self.api_key = secrets.token_urlsafe(32)
        self.port = 0
        self._binaries = binaries
        self._arguments = arguments
        self._cwd = cwd
        self._on_line = on_line
        self._on_poll = on_poll
        self._choose_port = choose_port
        self._child: ChildProcess | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; meaningful once started."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None before there is a process."""
        return self._child.pid if self._child else None

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of output."""
        return self._child.log_tail(lines) if self._child else ""

    async def start(self, timeout_s: float) -> None:
        """Return when the model is loaded and requests are answered; on failure no child is left.

        Raises:
            LlamaServerFailed: it ended, took longer than ``timeout_s`` or was stopped.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._start_on_some_port()
        except TimeoutError:
            await self.stop(grace_s=0)
            raise self._failure(f"llama-server was not ready within {timeout_s:g} s") from None
        except BaseException:
            await self.stop(grace_s=0)
            raise

    async def wait(self) -> int:
        """Wait for the end of a started server; return its exit code."""
        assert self._child is not None
        return await self._child.wait()

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the process, also one that another task is starting; see ChildProcess.stop."""
        self._stopped = True
        if self._child is not None:
            await self._child.stop(grace_s)

    async def _start_on_some_port(self) -> None:
        for _ in range(BIND_ATTEMPTS):
            child = await self._spawn()
            if await self._becomes_ready(child):
                return
            if self._stopped:
                raise self._failure("llama-server was stopped while it was starting")
            if not is_taken(self.port):
                raise self._failure(ending_text(await child.wait()))
        raise self._failure(
            f"llama-server found its port taken {BIND_ATTEMPTS} times, at last {self.port}"
        )

    async def _spawn(self) -> ChildProcess:
        self.port = self._choose_port()
        command = [str(self._binaries.server), "--host", HOST, "--port", str(self.port)]
        secret = {"LLAMA_API_KEY": self.api_key}
        self._child = await ChildProcess.start(
            [*command, *self._arguments],
            env={**self._binaries.environment, "GGML_NO_BACKTRACE": "1", **secret},
            cwd=self._cwd,
            on_line=self._on_line,
        )
        if self._stopped:  # while the process was being made
            await self._child.stop(grace_s=0)
        return self._child

    async def _becomes_ready(self, child: ChildProcess) -> bool:
        """Wait for a first good answer; False when the process ends before it."""
        client = ControlClient(self.url, PROBE_TIMEOUT_S, api_key=self.api_key)
        async with aclosing(client):
            while child.returncode is None:
                if await _is_ready(client):
                    return True
                if self._on_poll is not None:
                    self._on_poll()
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await child.wait()
        await child.wait()
        return False

    def _failure(self, reason: str) -> LlamaServerFailed:
        tail = self.log_tail()
        return LlamaServerFailed(f"{reason}; its last output:\n{tail}" if tail else reason)


async def _is_ready(client: ControlClient) -> bool:
    """Ask for health, which is 503 during the load, then whether the key is right.

    The second keeps us from taking a stranger for our child, which then fails to bind the port.
    """
    try:
        if (await client.get("/health")).status != HTTPStatus.OK:
            return False
        return (await client.get("/props")).status == HTTPStatus.OK
    except SollolError:
        return False
