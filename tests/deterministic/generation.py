"""A request at a simulated node, from its arrival to the end of its answer."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.deterministic import answers
from tests.deterministic.faults import AT_ONCE, Fault, Window
from tests.deterministic.network import Wire

if TYPE_CHECKING:
    from tests.deterministic.node import Runner, SimulatedNode


class Generation:
    """Goes through: slot, load, prompt, tokens, end. Its node tells it when it has the first two.

    Attributes:
        said: what the answer begins with, as another node has given it already.
        by: names it in every record: the node, and a number.
        window: the fault that it meets, if any.
        has_slot: it runs, or its model is being loaded for it.
        arrived: the tick in which it came.
        began: the tick in which something of its answer went out; 0 before that.
        attempt: the gateway's, counted from 1.
        is_stuck: nothing more will come of it.
        ended: the tick in which it ended.
        how: how it ended; empty before that.
    """

    def __init__(
        self, node: "SimulatedNode", wire: Wire, path: str, asked: Mapping[str, Any]
    ) -> None:
        self.node = node
        self.wire = wire
        self.path = path
        self.model: str = asked["model"]
        turns = asked.get("messages") or [
            {"content": asked.get("prompt") or asked.get("input", "")}
        ]
        self.prompt: str = turns[0]["content"]
        self.said: str = turns[-1]["content"] if len(turns) > 1 else ""
        self.is_stream: bool = asked.get("stream", True) and path != "/api/embed"
        self.tokens: int = asked.get("options", {}).get("num_predict", 1)
        self.by = f"{node.id}/{node.next_number()}"
        self.window: Window | None = None
        self.runner: Runner | None = None
        self.has_slot = False
        self.has_head = False
        self.is_stuck = False
        self.arrived = node.now
        self.began = 0
        self.attempt = 0
        self.ended = 0
        self.how = ""
        self._done = 0
        self._load_ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def request(self) -> str:
        """The name of the request, which is the first word of its prompt."""
        return self.prompt.split(" ", 1)[0]

    @property
    def runner_key(self) -> str:
        """What the gateway calls the runner of its model here."""
        return self.node.models.get(self.model, self.model)

    @property
    def is_live(self) -> bool:
        """Whether it goes on, and the gateway could know."""
        return not self.how and not self.wire.is_lost

    @property
    def fault(self) -> Fault | None:
        """What goes wrong with it."""
        return None if self.window is None else self.window.fault

    def begin(self) -> None:
        """Fail at once, or ask for a slot."""
        if "bad" in self.prompt:
            self.answer(400, "invalid options")
        elif self.model not in self.node.models or self.fault is Fault.MISSING:
            self.answer(404, f"model '{self.model}' not found")
        elif self.fault in AT_ONCE:
            self._refuse()
        elif self.fault is Fault.RESET:
            self.wire.reset()
            self.node.end(self, "reset")
        elif self.fault is Fault.SILENT:
            self.is_stuck = True
        else:
            self.node.want_slot(self)

    def _refuse(self) -> None:
        if self.fault is Fault.FULL:
            self.answer(503, answers.FULL)
        elif self.fault is Fault.TOO_MANY:
            self.answer(429, "slow down", b"retry-after: 1")
        else:
            self.answer(500, answers.BROKEN)

    def run(self, load_ticks: int) -> None:
        """Evaluate the prompt; the model is in memory."""
        self._load_ticks = load_ticks
        self._after(self.node.prompt_ticks, self._evaluated)

    def _evaluated(self) -> None:
        if self.fault is Fault.CRASH or "poison" in self.prompt:
            assert self.runner is not None
            self.node.crash(self.runner)
        elif self.fault is Fault.ERROR_FIRST and not self.is_stream:
            self.answer(500, "an error was encountered while running the model")
        elif self.fault is Fault.ERROR_FIRST:
            self._error_record()
        else:
            self._next_token()

    def _next_token(self) -> None:
        if self.window is not None and self._done >= self.window.after and self._fails():
            return
        if self._done == self.tokens:
            self._finish()
            return
        if self.is_stream:
            self.began = self.began or self.node.now
            self._send(self._record(self._token(self._done)))
        self._done += 1
        self._after(self.node.token_ticks, self._next_token)

    def _fails(self) -> bool:
        """Fail in the middle; whether it does."""
        if self.fault is Fault.ERROR_LATER and self.is_stream:
            self._error_record()
        elif self.fault is Fault.ERROR_LATER:
            self.answer(500, "an error was encountered while running the model")
        elif self.fault is Fault.HANG:
            self._half()
            self.is_stuck = True
            self.node.note(f"{self.by} hangs")
        elif self.fault is Fault.SHORT and self.is_stream:
            self._head()
            self.wire.send(answers.LAST_CHUNK)
            self.node.end(self, "short")
        elif self.fault in (Fault.CUT, Fault.SHORT):
            self._half()
            self.wire.reset()
            self.node.end(self, "cut")
        else:
            return False
        return True

    def _finish(self) -> None:
        self.began = self.began or self.node.now
        tick = 1 / 100
        told = answers.numbers(
            self.tokens,
            self._load_ticks * tick,
            self.node.prompt_ticks * tick,
            self.tokens * self.node.token_ticks * tick,
        )
        if self.is_stream:
            self._send({**self._record(""), **told})
            self.wire.send(answers.LAST_CHUNK)
        else:
            self.wire.send(answers.whole(200, {**self._whole(), **told}))
        self.node.end(self, "done")

    def _whole(self) -> dict[str, object]:
        if self.path == "/api/embed":
            return {"model": self.model, "embeddings": [[0.5]], "by": self.by}
        return self._record("".join(self._token(place) for place in range(self.tokens)))

    def _token(self, place: int) -> str:
        return answers.token(self.prompt, answers.count(self.said) + place)

    def _record(self, text: str) -> dict[str, object]:
        return answers.record(self.path, self.model, text, self.by)

    def _error_record(self) -> None:
        self._send({"error": "an error was encountered while running the model"})
        self.wire.send(answers.LAST_CHUNK)
        self.node.end(self, "error record")

    def _half(self) -> None:
        """Begin an answer that will not be whole."""
        if self.is_stream:
            self._head()
        elif not self.has_head:
            self.has_head = True
            self.wire.send(answers.whole(200, self._whole())[:-8])

    def _send(self, record: dict[str, object]) -> None:
        self._head()
        self.wire.send(answers.chunk(record))

    def _head(self) -> None:
        if not self.has_head:
            self.has_head = True
            self.wire.send(answers.stream_head())

    def answer(self, status: int, text: str, *headers: bytes) -> None:
        """Answer with an error and end."""
        self.has_head = True
        self.wire.send(answers.whole(status, {"error": text}, *headers))
        self.node.end(self, str(status))

    def crash(self) -> None:
        """Its runner has died."""
        if self.has_head:
            self.wire.reset()
            self.node.end(self, "cut by a crash")
        else:
            self.answer(500, answers.CRASHED)
            self.how = "crashed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done for it."""
        return bool(self.how)

    def stop(self, how: str) -> None:
        """Do no more."""
        self.ended = self.node.now
        self.how = how
        if self._timer is not None:
            self._timer.cancel()

    def _after(self, ticks: int, step: Any) -> None:
        self._timer = self.node.after(ticks, step)
