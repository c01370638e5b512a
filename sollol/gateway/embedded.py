"""Starts the embedded node when no other node answers, and keeps the registry in step with it."""

import asyncio
from collections.abc import Iterable

import structlog
from pydantic import SecretStr

from sollol.llamacpp.binaries import LlamaCppUnavailable
from sollol.llamacpp.embedded import EmbeddedNode, EmbeddedOptions, EmbeddedState
from sollol.llamacpp.server import LlamaServerFailed
from sollol.nodes.prober import Prober
from sollol.nodes.registry import Registry
from sollol.settings import EMBEDDED_ID, EmbeddedSettings, NodeSettings
from sollol.types import NodeState, Source

log = structlog.get_logger()

PROGRESS_STEP = 0.25
"""How much more of the model's file must be there before it is told again."""


class EmbeddedKeeper:
    """Runs the embedded node for as long as the gateway runs, if it is needed at all."""

    def __init__(
        self,
        registry: Registry,
        prober: Prober,
        settings: EmbeddedSettings,
        *,
        wait_for: Iterable[asyncio.Event],
    ) -> None:
        self._registry = registry
        self._prober = prober
        self._settings = settings
        self._wait_for = tuple(wait_for)
        self._told = 0.0

    async def run(self) -> None:
        """Wait until all were looked for; start a node if nothing answered; keep it.

        It is kept when another node joins later: its model may be in use.
        """
        for first_round in self._wait_for:
            await first_round.wait()
        if any(view.state is NodeState.HEALTHY for view in self._registry.views()):
            return
        if not self._settings.enabled:
            log.warning("no_node", reason=self._why(), hint="add one with --node URL")
            return
        log.info("embedded_node_starting", reason=self._why())
        states: asyncio.Queue[EmbeddedState] = asyncio.Queue()
        node = EmbeddedNode(self._options(), states.put_nowait)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(self._follow(node, states))
            try:
                await self._keep(node)
            finally:
                following.cancel()
                await node.stop()

    async def _keep(self, node: EmbeddedNode) -> None:
        loop = asyncio.get_running_loop()

        def progress(done_bytes: int, total_bytes: int) -> None:
            loop.call_soon_threadsafe(self._tell, done_bytes / total_bytes)

        try:
            await node.start(progress)
        except (LlamaCppUnavailable, LlamaServerFailed) as error:
            log.error("embedded_node_failed", reason=str(error), hint="add a node with --node URL")
            return
        await node.supervise()

    async def _follow(self, node: EmbeddedNode, states: "asyncio.Queue[EmbeddedState]") -> None:
        """Register the node when it is ready and forget it when it is not."""
        while True:
            state = await states.get()
            await self._registry.remove(EMBEDDED_ID)
            if state is not EmbeddedState.READY:
                continue
            settings = NodeSettings(
                name=EMBEDDED_ID,
                url=node.url,
                engine="llama_server",
                slots=node.slots,
                api_key=SecretStr(node.api_key),
            )
            await self._prober.probe(self._registry.add(settings, Source.EMBEDDED))
            log.info("ready", model=node.model_name, node=EMBEDDED_ID)

    def _why(self) -> str:
        views = self._registry.views()
        if not views:
            return "no node is configured, and no Ollama answers on this machine"
        errors = "; ".join(f"{view.id}: {view.last_error}" for view in views)
        return f"none of {len(views)} nodes answers ({errors})"

    def _options(self) -> EmbeddedOptions:
        settings = self._settings
        return EmbeddedOptions(
            context_length=settings.context_length,
            slots=settings.slots,
            threads=settings.threads,
            start_timeout_s=settings.start_timeout_s,
            cache_dir=settings.cache_dir,
            binary=settings.binary,
            model=settings.model,
        )

    def _tell(self, share: float) -> None:
        """Say how far the file is, the first time and then at every quarter."""
        if share >= self._told:
            self._told = share + PROGRESS_STEP
            log.info("preparing_model", percent=round(share * 100))
