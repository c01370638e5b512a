"""A request's turn on a model, and where its time goes."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sollol.bench.sim.engine import HOT_LOAD_S, Engine
from sollol.bench.sim.memory import BLOCK_TOKENS, Runner
from sollol.bench.sim.text import count_tokens


@dataclass(slots=True)
class Timings:
    """Where the time of a request went, in unscaled seconds; the sum is the total."""

    load_s: float = 0.0
    queue_s: float = 0.0
    prompt_eval_s: float = 0.0
    eval_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Return the seconds from the arrival to the end."""
        return self.load_s + self.queue_s + self.prompt_eval_s + self.eval_s


class Lease:
    """A request's hold on a runner and one of its slots; use it with ``async with``."""

    def __init__(self, engine: Engine, runner: Runner, load_s: float) -> None:
        self.timings = Timings(load_s=load_s)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.runner = runner
        self._engine = engine
        self._decodes = False

    async def __aenter__(self) -> Self:
        engine, slots = self._engine, self.runner.slots
        if not slots.take_free():
            await self._queue()
        most = engine.max_running.get(self.runner.name, 0)
        engine.max_running[self.runner.name] = max(most, slots.running)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._engine.decoding -= self._decodes
        self.runner.slots.give_back()
        self._engine.release(self.runner)

    @property
    def was_hot(self) -> bool:
        """Whether the model was in memory already."""
        return self.timings.load_s == HOT_LOAD_S

    @property
    def knew_all(self) -> bool:
        """Whether no whole block of the prompt was new to the model."""
        return self.prompt_tokens - self.cached_tokens <= BLOCK_TOKENS

    async def _queue(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            await self.runner.slots.wait_turn()
        except BaseException:
            self._engine.release(self.runner)
            raise
        self.timings.queue_s = self._engine.unscaled(loop.time() - started)

    async def prefill(self, prompt: str, tokens: int = 0) -> None:
        """Evaluate the part of the prompt that the runner does not remember.

        Args:
            tokens: how many it has; 0 to count them.
        """
        self.prompt_tokens = min(tokens or count_tokens(prompt), self.runner.num_ctx)
        known = self.runner.prefixes.remember(prompt)
        self.cached_tokens = min(known, self.prompt_tokens - 1)
        fresh = self.prompt_tokens - self.cached_tokens
        runner = self.runner
        seconds = fresh / self._engine.config.prefill_tok_s * runner.slowdown * runner.size_slowdown
        self.timings.prompt_eval_s = seconds
        await self._engine.spend(seconds + HOT_LOAD_S)
        self._decodes = True
        self._engine.decoding += 1

    def decode(self, tokens: int = 1) -> float:
        """Account for further tokens; return the real seconds until they are there."""
        config = self._engine.config
        if config.chunk_interval_s > 0:
            self.timings.eval_s += config.chunk_interval_s * tokens
            return config.chunk_interval_s * tokens
        others = self._engine.decoding - 1
        runner = self.runner
        slowdown = runner.slowdown * runner.size_slowdown
        token_s = (1 + config.batch_slowdown * others) / config.decode_tok_s * slowdown
        self.timings.eval_s += token_s * tokens
        return token_s * tokens * config.time_scale

    async def embed(self, tokens: int) -> None:
        """Evaluate the tokens of all inputs of an embedding request."""
        self.prompt_tokens = tokens
        seconds = tokens / self._engine.config.embed_tok_s * self.runner.slowdown
        self.timings.prompt_eval_s = seconds
        await self._engine.spend(seconds)
