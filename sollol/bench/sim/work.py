"""What a chat, generate or completion request asks for, whichever API it came by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, Literal

from sollol.bench.sim.bodies import ApiError
from sollol.bench.sim.models import ModelStore, StoredModel
from sollol.bench.sim.prompts import Prompt, plan_answer, prompt_tokens
from sollol.bench.sim.records import Answer, Records

Purpose = Literal["answer", "load", "unload"]
_REMEMBERED = 512
_MAX_BODY_BYTES = 65_536


@dataclass(frozen=True)
class Work:
    """A request that was understood. The same body means the same work, until models change."""

    name: str
    """The model as the request spells it."""
    stored: StoredModel
    make_records: Callable[["count[int]"], Records]
    """Makes the writer of the answer, from the node's counter of answers."""
    purpose: Purpose = "answer"
    prompt: Prompt = field(default_factory=lambda: Prompt(""))
    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    keep_alive_s: float | None = None
    with_context: bool = False

    @cached_property
    def answer(self) -> Answer:
        """What the model says."""
        return plan_answer(self.stored.model, self.prompt)

    @cached_property
    def given(self) -> str:
        """All text that the model evaluates."""
        return self.prompt.text + self.prompt.partial

    @cached_property
    def given_tokens(self) -> int:
        """How many tokens that is."""
        return prompt_tokens(self.stored.model, self.prompt)

    @cached_property
    def remembered(self) -> str:
        """All text that the model has seen in the end."""
        return self.given + "".join(self.answer.pieces)


Reader = Callable[[bytes, ModelStore], Work]
"""Understands a body, or raises ``ApiError``."""


class WorkCache:
    """Understands each body once: a load generator sends the same one over and over."""

    def __init__(self) -> None:
        self._known: dict[tuple[Reader, bytes, int], Work] = {}

    def understand(self, read: Reader, body: bytes, models: ModelStore) -> Work:
        """Return what a body asks for.

        Raises:
            ApiError: it asks for nothing that can be done.
        """
        key = (read, body, models.generation)
        known = self._known.get(key)
        if known is not None:
            return known
        try:
            work = read(body, models)
        except (AttributeError, KeyError, TypeError) as error:  # a field of some other type
            message = "json: cannot unmarshal value into Go struct field"
            raise ApiError(400, message, is_gin=True) from error
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        if len(body) <= _MAX_BODY_BYTES:
            self._known[key] = work
        return work
