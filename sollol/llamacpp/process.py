"""One child process: started so that it cannot outlive us, its output kept, stopped for certain."""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, cast

LOG_LINES = 200
LINE_BYTES = 4096
"""A longer line is cut, so that a child without line ends cannot fill our memory."""
DRAIN_TIMEOUT_S = 1.0
"""How long output is still read after the child's end; a daemon it made may hold the pipe."""
REAP_TIMEOUT_S = 5.0
ALLOWED_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH",
)  # fmt: skip
_TETHER = str(Path(__file__).with_name("tether.py"))

LineCallback = Callable[[str], None]


def allowed_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the part of an environment a child may see: no keys, no ``LLAMA_ARG_*`` of the user."""
    return {name: environ[name] for name in ALLOWED_ENVIRONMENT if name in environ}


class _Output(asyncio.SubprocessProtocol):
    """Takes what the child writes as it comes, so that the pipe never fills."""

    def __init__(self, on_line: LineCallback | None) -> None:
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()
        self.transport: asyncio.SubprocessTransport | None = None
        self._on_line = on_line
        self._partial = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, as uvloop's transport has the methods but not the base class.
        self.transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._keep(line)
        if len(self._partial) >= LINE_BYTES:
            self._flush()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if self._partial:
            self._flush()
        self.drained.set()

    def process_exited(self) -> None:
        self.exited.set()

    def _flush(self) -> None:
        line, self._partial = self._partial, b""
        self._keep(line)

    def _keep(self, line: bytes) -> None:
        text = line[:LINE_BYTES].decode(errors="replace").rstrip("\r")
        self.lines.append(text)
        if self._on_line is not None:
            self._on_line(text)


class ChildProcess:
    """A running or ended child that leads its own session and process group.

    It ignores SIGPIPE: writing to a connection that the far end has closed is an error to it, not its
    end. On Linux the kernel kills it when the *thread* that started it ends, so start it from the thread
    of the event loop, which lives as long as the program.
    """

    def __init__(self, transport: asyncio.SubprocessTransport, output: _Output) -> None:
        self._transport = transport
        self._output = output
        self._swept = False
        self.pid: int = transport.get_pid()

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        on_line: LineCallback | None = None,
    ) -> Self:
        """Start a program; both its output streams go to the log.

        Args:
            argv: the absolute path of the program, then its arguments. A program that cannot be
                executed shows as exit code 127 with the reason in the log.
            env: its whole environment; see :func:`allowed_environment`.
            cwd: its working directory; ours by default.
            on_line: called in the event loop with each line of output, without the line end.
        """
        output = _Output(on_line)
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: output,
                *_tethered(argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                restore_signals=sys.platform == "linux",  # tether.py says why; there it starts anew
            )
        except BaseException:
            if output.transport is not None:
                output.transport.close()  # kills
            raise
        assert output.transport is not None
        return cls(output.transport, output)

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number if one ended it, or None while it runs."""
        return self._transport.get_returncode()

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines the child wrote, at most ``LOG_LINES``."""
        return "\n".join(list(self._output.lines)[-lines:])

    async def wait(self) -> int:
        """Wait for the child's end and the end of its output; return the exit code.

        Several callers may wait, and a cancelled one does no harm. What the child left behind in
        its process group is killed.
        """
        await self._output.exited.wait()
        self._sweep()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._output.drained.wait()
        self._transport.close()
        returncode = self.returncode
        assert returncode is not None
        return returncode

    async def stop(self, grace_s: float = 10.0) -> None:
        """End the child and its group: SIGTERM, then SIGKILL after ``grace_s`` or when cancelled.

        Does nothing to a child that has ended.

        Raises:
            TimeoutError: the kernel did not end it within ``REAP_TIMEOUT_S`` of SIGKILL.
        """
        try:
            if grace_s > 0 and not self._output.exited.is_set():
                self._signal_group(signal.SIGTERM)
                async with asyncio.timeout(grace_s):
                    await self._output.exited.wait()
        except TimeoutError:
            pass
        finally:
            if not self._output.exited.is_set():
                self._signal_group(signal.SIGKILL)
            async with asyncio.timeout(REAP_TIMEOUT_S):
                await self.wait()

    def _sweep(self) -> None:
        """Kill what the ended child left in its group; once, as its pid is free for others."""
        if self._swept:
            return
        self._swept = True
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _tethered(argv: Sequence[str]) -> Sequence[str]:
    """Return the command that also ties the program's life to ours, where the kernel can."""
    if sys.platform != "linux":
        return argv
    return [sys.executable, "-I", "-S", _TETHER, str(os.getpid()), *argv]
