"""Child processes on chosen cores: started, watched through ``/proc``, and always ended."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_POLL_S = 0.05


class ChildFailed(Exception):
    """A child process did not do its part; the text says what it wrote last."""


class Child:
    """A running process and the file that it writes its output to."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self.process = process
        self._output = output

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads so far, in user and kernel mode."""
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Return how much memory is resident."""
        return int(self._stat()[21]) * _PAGE_BYTES

    def _stat(self) -> list[str]:
        text = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        return text.rpartition(")")[2].split()

    def wait_listening(self, port: int, timeout_s: float = 30.0) -> None:
        """Return once a connection to ``port`` can be made.

        Raises:
            ChildFailed: it ended, or took longer than ``timeout_s``.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.check_alive()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(_POLL_S)
        raise ChildFailed(
            f"{self.name} does not listen after {timeout_s:g} s\n{self.last_output()}"
        )

    def check_alive(self) -> None:
        """Raise ChildFailed if the process has ended."""
        if self.process.poll() is not None:
            code = self.process.returncode
            raise ChildFailed(f"{self.name} ended with exit code {code}\n{self.last_output()}")

    def output(self, timeout_s: float) -> bytes:
        """Wait for the end of the process and return what it wrote.

        Raises:
            ChildFailed: it failed, or took longer than ``timeout_s``.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"{self.name} runs for longer than {timeout_s:g} s") from None
        if code:
            raise ChildFailed(f"{self.name} ended with exit code {code}\n{self.last_output()}")
        return self._output.read_bytes()

    def last_output(self) -> str:
        """Return the end of what it wrote."""
        return self._output.read_bytes()[-2000:].decode("utf-8", "replace")


class Children:
    """``with Children(folder) as children:`` starts processes and ends every one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.process.kill()
        for child in self._children:
            child.process.wait()

    def start(
        self,
        name: str,
        command: Sequence[str],
        cores: frozenset[int] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a process on ``cores``, or on any, in the temporary folder.

        Variables that would change how SOLLOL or a client behaves are kept from it.
        """
        output = self._folder / f"{len(self._children):03}-{name}.txt"
        with _running_on(cores), output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=_clean_environment() | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        child = Child(name, process, output)
        self._children.append(child)
        return child


@contextlib.contextmanager
def _running_on(cores: frozenset[int] | None) -> Iterator[None]:
    """Let this process run on ``cores`` only; children inherit it, from their first moment on."""
    if cores is None:
        yield
        return
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own_cores)


def _clean_environment() -> dict[str, str]:
    dropped = ("SOLLOL_", "OLLAMA_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    return {key: value for key, value in os.environ.items() if not key.upper().startswith(dropped)}
