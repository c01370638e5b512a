"""How many tokens a prompt has and how many an answer will have, before either is counted."""

from collections import OrderedDict

from sollol.scheduling.kept import REFUSED, number, rows, text
from sollol.types import Ask, Measured, Task

TOKENS_PER_BYTE = 0.25
"""Of English text with most tokenizers."""

TEMPLATE_TOKENS = 12
"""What a chat template adds."""

IMAGE_TOKENS = 500
OUTPUT_TOKENS = 300
"""The answer of a model of which none was seen yet."""

WORTH_BYTES = 200
"""Shorter prompts are mostly template, and tell nothing of the tokens in a byte."""

MIN_TOKENS_PER_BYTE = 0.02
MAX_TOKENS_PER_BYTE = 2.0
MAX_OUTPUT_TOKENS = 1e7

MAX_KEYS = 4096
"""Averages kept; callers can make up any number of models and names."""

_SHARE = 0.1
_EMBED = Task.EMBED

Key = tuple[str, str, str]


class Lengths:
    """Learns from what nodes count."""

    def __init__(self) -> None:
        self._tokens_per_byte: OrderedDict[Key, float] = OrderedDict()
        self._outputs: OrderedDict[Key, float] = OrderedDict()

    def prompt_tokens(self, model: str, ask: Ask) -> int:
        """Return the tokens of a prompt, the template's included."""
        per_byte = self._tokens_per_byte.get((model, "", ""), TOKENS_PER_BYTE)
        text = int(ask.prompt_bytes * per_byte)
        return text + TEMPLATE_TOKENS * ask.inputs + ask.images * IMAGE_TOKENS

    def output_tokens(self, model: str, ask: Ask, caller: str) -> int:
        """Return the tokens to expect of an answer; 0 for embeddings.

        What the caller got of the model for this kind of task counts most, then what all got.
        """
        task = ask.task
        if task is _EMBED:
            return 0
        outputs = self._outputs
        expected = (
            outputs.get((model, task, caller))
            or outputs.get((model, task, ""))
            or outputs.get(("", task, ""))
            or OUTPUT_TOKENS
        )
        limit = ask.max_output_tokens
        return int(expected) if limit is None or limit > expected else limit

    def learn(self, model: str, ask: Ask, caller: str, measured: Measured) -> None:
        """Take what a node counted."""
        count = measured.prompt_tokens
        if count and ask.prompt_bytes >= WORTH_BYTES and not ask.images:
            tokens = count - TEMPLATE_TOKENS * ask.inputs
            per_byte = tokens / ask.prompt_bytes
            per_byte = min(MAX_TOKENS_PER_BYTE, max(MIN_TOKENS_PER_BYTE, per_byte))
            _learn(self._tokens_per_byte, (model, "", ""), per_byte)
        output = min(measured.output_tokens or measured.pieces, MAX_OUTPUT_TOKENS)
        is_cut = ask.max_output_tokens is not None and output >= ask.max_output_tokens
        if not output or ask.task is _EMBED or is_cut:
            return
        for key in ((model, ask.task, caller), (model, ask.task, ""), ("", ask.task, "")):
            _learn(self._outputs, key, float(output))

    def as_lists(self) -> dict[str, list[list[object]]]:
        """Return what is worth keeping between runs: what holds for all callers."""
        return {
            "tokens_per_byte": [[*key, value] for key, value in self._tokens_per_byte.items()],
            "outputs": [[*key, value] for key, value in self._outputs.items() if not key[2]],
        }

    def take(self, kept: object) -> int:
        """Take over what :meth:`as_lists` gave; return how much of it did not fit."""
        per_byte = ("tokens_per_byte", self._tokens_per_byte, MAX_TOKENS_PER_BYTE)
        dropped = 0
        for name, known, most in (per_byte, ("outputs", self._outputs, MAX_OUTPUT_TOKENS)):
            for row in rows(kept, name):
                try:
                    model, task, caller = map(text, row[:3])
                    value = number(row[3], MIN_TOKENS_PER_BYTE, most)
                except REFUSED:
                    dropped += 1
                else:
                    _keep(known, (model, task, caller), value)
        return dropped


def _learn(known: OrderedDict[Key, float], key: Key, value: float) -> None:
    before = known.get(key)
    _keep(known, key, value if before is None else before + _SHARE * (value - before))


def _keep(known: OrderedDict[Key, float], key: Key, value: float) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_KEYS:
        known.popitem(last=False)
