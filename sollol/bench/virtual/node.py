"""A virtual Ollama node: requests wait for a load, then for a slot, are read, and are answered."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sollol.bench.sim.config import SimConfig, SimModel
from sollol.bench.sim.engine import HOT_LOAD_S
from sollol.bench.virtual.decode import Decoder
from sollol.bench.virtual.loop import EventLoop
from sollol.bench.virtual.memory import Memory, VirtualRunner
from sollol.types import Engine, Model, NodeState, NodeView, Resident
from sollol.wire.names import model_key

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_FOR_EVER_S = timedelta(days=365 * 293).total_seconds()


@dataclass(slots=True, eq=False)
class Visit:
    """A request on a node: what it wants, and where its time went.

    ``known_tokens`` of the prompt are those that its conversation had before. ``first_byte_at`` is
    the moment of the first piece of a streamed answer.
    """

    model: str
    prompt_tokens: int
    output_tokens: int
    known_tokens: int = 0
    conversation: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    began: Callable[["Visit"], None] = lambda _: None
    """Told at the first byte of a streamed answer."""
    ended: Callable[["Visit"], None] = lambda _: None
    arrived_at: float = 0.0
    load_s: float = 0.0
    queue_s: float = 0.0
    cached_tokens: int = 0
    prompt_s: float = 0.0
    output_s: float = 0.0
    first_byte_at: float = 0.0
    ended_at: float = 0.0
    is_refused: bool = False

    @property
    def total_s(self) -> float:
        """Seconds on the node."""
        return self.ended_at - self.arrived_at

    @property
    def was_loaded(self) -> bool:
        """Whether it waited for a load."""
        return self.load_s > HOT_LOAD_S


class VirtualNode:
    """One node of a virtual fleet."""

    def __init__(self, loop: EventLoop, name: str, config: SimConfig) -> None:
        self.name = name
        self.config = config
        self.memory = Memory(loop, config)
        self.in_flight = 0
        self.max_running: dict[str, int] = {}
        """The most sequences that ran at once, by model."""
        self._loop = loop
        self._decoder = Decoder(loop, config.batch_slowdown)
        self._slowdown = 1.0
        self._models = {model.name: model for model in config.models}
        self._shown = {model_key(model.name): _shown(model) for model in config.models}

    def set_slowdown(self, slowdown: float) -> None:
        """Make all that begins from here on take so many times as long; 1 is as configured."""
        self._slowdown = self.memory.slowdown = slowdown
        self._decoder.set_slowdown(slowdown)

    def serve(self, visit: Visit) -> None:
        """Take a request in; its ``ended`` is called when the answer is there."""
        visit.arrived_at = self._loop.now
        self.in_flight += 1
        model = self._models[visit.model]
        if not self.memory.take(model, visit.options, lambda *taken: self._enter(visit, *taken)):
            visit.is_refused = True
            self._end(visit)

    def warm(self, model_key_: str, ended: Callable[[bool], None]) -> None:
        """Load a model for nobody; ``ended`` is told whether it is in memory."""

        def ready(runner: VirtualRunner, _: float) -> None:
            self.memory.release(runner)
            ended(True)

        model = self._models[self._shown[model_key_].name]
        if not self.memory.take(model, {}, ready):
            ended(False)

    def view(self) -> NodeView:
        """Return what a probe would find."""
        return NodeView(
            id=self.name,
            url=f"http://{self.name}",
            engine=Engine.OLLAMA,
            state=NodeState.HEALTHY,
            slots=self.config.slots,
            version=self.config.version,
            models=self._shown,
            resident={
                model_key(runner.model.name): _resident(runner, self._loop.now)
                for runner in self.memory.loaded.values()
            },
        )

    def _enter(self, visit: Visit, runner: VirtualRunner, load_s: float) -> None:
        visit.load_s = load_s
        if runner.running < runner.slots and not runner.waiting:
            self._begin(visit, runner)
            return
        queued_at = self._loop.now

        def take_turn() -> None:
            visit.queue_s = self._loop.now - queued_at
            self._begin(visit, runner)

        runner.waiting.append(take_turn)

    def _begin(self, visit: Visit, runner: VirtualRunner) -> None:
        runner.running += 1
        most = self.max_running.get(visit.model, 0)
        self.max_running[visit.model] = max(most, runner.running)
        if runner.model.only_embeds:
            self._embed(visit, runner)
            return
        visit.prompt_tokens = min(visit.prompt_tokens, runner.num_ctx)
        known = runner.prefixes.known(visit.conversation, visit.known_tokens)
        visit.cached_tokens = min(known, visit.prompt_tokens - 1)
        fresh = visit.prompt_tokens - visit.cached_tokens
        slowdown = self._factor(runner)
        visit.prompt_s = fresh / self.config.prefill_tok_s * slowdown
        self._loop.after(visit.prompt_s + HOT_LOAD_S, lambda: self._decode(visit, runner))

    def _embed(self, visit: Visit, runner: VirtualRunner) -> None:
        slowdown = runner.slowdown * self._slowdown
        visit.prompt_s = visit.prompt_tokens / self.config.embed_tok_s * slowdown

        def end() -> None:
            visit.first_byte_at = self._loop.now
            self._leave(visit, runner)

        self._loop.after(visit.prompt_s, end)

    def _factor(self, runner: VirtualRunner) -> float:
        return runner.slowdown * self.config.size_slowdown(runner.model) * self._slowdown

    def _decode(self, visit: Visit, runner: VirtualRunner) -> None:
        visit.first_byte_at = self._loop.now
        visit.began(visit)

        def end() -> None:
            visit.output_s = self._loop.now - visit.first_byte_at
            runner.prefixes.remember(visit.conversation, visit.prompt_tokens + visit.output_tokens)
            self._leave(visit, runner)

        slowdown = runner.slowdown * self.config.size_slowdown(runner.model)
        self._decoder.add(visit.output_tokens / self.config.decode_tok_s * slowdown, end)

    def _leave(self, visit: Visit, runner: VirtualRunner) -> None:
        runner.running -= 1
        if runner.waiting:
            runner.waiting.popleft()()
        self.memory.release(runner)
        self._end(visit)

    def _end(self, visit: Visit) -> None:
        self.in_flight -= 1
        visit.ended_at = self._loop.now
        visit.ended(visit)


def _shown(model: SimModel) -> Model:
    return Model(
        key=model_key(model.name),
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        context_length=model.context_length,
        capabilities=frozenset(model.capabilities),
    )


def _resident(runner: VirtualRunner, now: float) -> Resident:
    expires_at = runner.expires_at
    if expires_at is None:
        expires_at = now + runner.keep_alive_s
    return Resident(
        key=model_key(runner.model.name),
        name=runner.model.name,
        digest=runner.model.digest,
        size_bytes=runner.size_bytes,
        vram_bytes=runner.vram_bytes,
        context_length=runner.num_ctx,
        expires_at=wall_clock(expires_at),
    )


def wall_clock(moment: float) -> str:
    """Return a moment of the virtual clock as nodes write it; 0 is the first of January 2026."""
    moment = min(moment, _FOR_EVER_S)
    return (_EPOCH + timedelta(seconds=moment)).isoformat().replace("+00:00", "Z")
