"""The embedded node: a llama-server with a small real model, so that the first request answers."""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from sollol.llamacpp.binaries import LlamaBinaries, LlamaCppUnavailable, find_binaries
from sollol.llamacpp.restarts import CRASH_WINDOW_S, CRASHES_TO_GIVE_UP, restart_delay_s
from sollol.llamacpp.server import STOP_GRACE_S, LlamaServer, LlamaServerFailed, ending_text
from sollol.llamacpp.small_model import (
    MODEL_NAME,
    ProgressCallback,
    default_cache_dir,
    small_model,
)

log = structlog.get_logger()

CHAT_TEMPLATE = Path(__file__).with_name("base_model_chat.jinja")
STOP_TEXTS = ("\n\nUser:", "\nUser:", "\nAssistant:", "<start_of_image>")
"""Where the small model goes on with the other side of the dialogue, or leaves text altogether."""
ANSWER_TOKENS = 512
"""The length of an answer whose request sets none; a base model may never end by itself."""
GGUF_MAGIC = b"GGUF"

RestartDelay = Callable[[Sequence[float], float], float | None]
"""See :func:`~sollol.llamacpp.restarts.restart_delay_s`."""


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """How the embedded node runs.

    ``context_length`` is what every request may use, so memory grows with ``context_length *
    slots``. ``threads``: half of the cores by default, as the gateway needs some. ``binary`` and
    ``model``: the user's own llama-server and GGUF file in place of the packaged ones.
    """

    context_length: int = 4096
    slots: int = 4
    threads: int | None = None
    start_timeout_s: float = 120.0
    cache_dir: Path | None = None
    binary: Path | None = None
    model: Path | None = None


class EmbeddedState(StrEnum):
    """Whether the node can be used; only READY can."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died; it will be started again, on another URL."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It cannot be started, or it keeps dying."""


class EmbeddedNode:
    """Starts llama-server, starts it again when it dies, and stops it.

    Its owner runs, in one task: ``await node.start()``, ``await node.supervise()``, and in any case
    ``await node.stop()`` at the end. ``on_change`` is called in the event loop with every new state;
    at READY ``url`` and ``api_key`` are those of the new process.
    """

    def __init__(
        self,
        options: EmbeddedOptions,
        on_change: Callable[[EmbeddedState], None] | None = None,
        *,
        restart_delay: RestartDelay = restart_delay_s,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = EmbeddedState.STOPPED
        self.slots = options.slots
        self.model_name = options.model.stem if options.model else MODEL_NAME
        self._options = options
        self._on_change = on_change
        self._restart_delay = restart_delay
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=CRASHES_TO_GIVE_UP)
        self._stopping = asyncio.Event()
        self._server: LlamaServer | None = None
        self._binaries: LlamaBinaries | None = None
        self._model: Path | None = None

    @property
    def url(self) -> str:
        """The base URL of the running server; empty before the first start."""
        return self._server.url if self._server else ""

    @property
    def api_key(self) -> str:
        """The bearer token the running server wants; empty before the first start."""
        return self._server.api_key if self._server else ""

    @property
    def pid(self) -> int | None:
        """The process id of llama-server, or None without one."""
        return self._server.pid if self._server else None

    async def start(self, progress: ProgressCallback | None = None) -> str:
        """Start the server and return its URL once it answers.

        Args:
            progress: called while the model's file is made, which happens once per machine.

        Raises:
            LlamaCppUnavailable: llama.cpp or the model is missing or cannot run here.
            LlamaServerFailed: llama-server ended, was too slow or was stopped.
        """
        self._enter(EmbeddedState.STARTING)
        try:
            options = self._options
            self._binaries = await asyncio.to_thread(find_binaries, options.binary)
            self._model = await asyncio.to_thread(find_model, options, progress)
            await self._launch()
        except (LlamaCppUnavailable, LlamaServerFailed):
            self._enter(EmbeddedState.FAILED)
            raise
        return self.url

    async def supervise(self) -> None:
        """Start the server again whenever it dies; return after ``stop`` or on giving up."""
        while not self._stopping.is_set() and self.state is not EmbeddedState.FAILED:
            assert self._server is not None
            returncode = await self._server.wait()
            if self._stopping.is_set():
                return
            log.warning("embedded_node_died", reason=ending_text(returncode))
            await self._restart()

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stop the server, also during ``start``; no process is left. May be called again."""
        self._stopping.set()
        if self._server is not None:
            await self._server.stop(grace_s)
        self._enter(EmbeddedState.STOPPED)

    async def _restart(self) -> None:
        """Launch until it works, the crashes are too many or ``stop`` is called."""
        self._enter(EmbeddedState.RESTARTING)
        while not self._stopping.is_set():
            self._deaths.append(self._clock())
            delay_s = self._restart_delay(self._deaths, self._clock())
            if delay_s is None:
                self._give_up()
                return
            if await self._is_stopped_within(delay_s):
                return
            try:
                await self._launch()
            except LlamaServerFailed as error:
                log.warning("embedded_node_restart_failed", reason=str(error))
                continue
            return

    async def _launch(self) -> None:
        assert self._binaries is not None
        assert self._model is not None
        arguments = server_arguments(self._options, self._model, self.model_name)
        self._server = LlamaServer(self._binaries, arguments, cwd=self._model.parent)
        if self._stopping.is_set():
            raise LlamaServerFailed("the embedded node was stopped while it was starting")
        await self._server.start(self._options.start_timeout_s)
        log.info("embedded_node_ready", url=self.url, model=self.model_name, slots=self.slots)
        self._enter(EmbeddedState.READY)

    async def _is_stopped_within(self, delay_s: float) -> bool:
        try:
            async with asyncio.timeout(delay_s):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    def _give_up(self) -> None:
        assert self._server is not None
        log.error(
            "embedded_node_failed",
            reason=f"llama-server died {CRASHES_TO_GIVE_UP} times within {CRASH_WINDOW_S:g} s",
            last_output=self._server.log_tail(),
        )
        self._enter(EmbeddedState.FAILED)

    def _enter(self, state: EmbeddedState) -> None:
        if self._stopping.is_set():  # what a start or restart finds out after stop() is no news
            state = EmbeddedState.STOPPED
        if state is self.state:
            return
        self.state = state
        if self._on_change is not None:
            self._on_change(state)


def find_model(options: EmbeddedOptions, progress: ProgressCallback | None = None) -> Path:
    """Return the GGUF file to serve. Blocks.

    Raises:
        LlamaCppUnavailable: the given file is no GGUF file, or the small model is not available.
    """
    if options.model is None:
        return small_model(options.cache_dir or default_cache_dir(), progress)
    model = options.model.resolve()
    try:
        with model.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise LlamaCppUnavailable(f"cannot read the model {model}: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise LlamaCppUnavailable(f"{model} is not a GGUF file")
    return model


def default_threads() -> int:
    """Return half of the cores we may use, at least 1."""
    if sys.platform != "linux":
        return max((os.cpu_count() or 1) // 2, 1)
    return max(len(os.sched_getaffinity(0)) // 2, 1)


def server_arguments(options: EmbeddedOptions, model: Path, alias: str) -> list[str]:
    """Return the command line of llama-server without address and key."""
    arguments = {
        "--model": str(model),
        "--alias": alias,
        "--ctx-size": str(options.context_length * options.slots),  # each slot gets its share
        "--parallel": str(options.slots),
        "--threads": str(options.threads or default_threads()),
        "--predict": str(ANSWER_TOKENS),
        "--pooling": "mean",
        "--device": "none",  # GPU memory is for the nodes that people added
        "--fit": "off",
        "--cache-ram": "0",  # would keep up to 8 GiB of old prompts
        "--ctx-checkpoints": "2",
    }
    flags = ["--embeddings", "--no-webui", "--no-slots", "--offline", "--jinja"]
    own = [] if options.model else small_model_arguments()
    return [*flags, *(word for pair in arguments.items() for word in pair), *own]


def small_model_arguments() -> list[str]:
    """Return what makes the base model chat: a dialogue to continue, and sober sampling."""
    # llama-server warns that only the last stop counts; its generation settings show all of them.
    stops = [word for text in STOP_TEXTS for word in ("--reverse-prompt", text)]
    sampling = ["--temp", "0.3", "--repeat-penalty", "1.1"]
    return ["--chat-template-file", str(CHAT_TEMPLATE), *stops, *sampling]
