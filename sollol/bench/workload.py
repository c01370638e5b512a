"""What callers ask for and when: a synthetic mix, or a published trace by its path."""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec

from sollol.bench.sim.config import SimModel, guess_model
from sollol.types import Ask, Task

BYTES_PER_TOKEN = 4
"""As the simulated nodes count tokens."""

MODELS = tuple(
    guess_model(name)
    for name in (
        "llama3.1:8b",
        "llama3.2:3b",
        "qwen2.5:14b",
        "llama3.2:1b",
        "qwen2.5-coder:32b",
    )
)
"""The models that answer with text, the most popular first."""

EMBEDDER = guess_model("nomic-embed-text")
ZIPF_EXPONENT = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a workload; ``at`` counts seconds from its start.

    ``known_tokens`` of the prompt's start came up in the conversation before, so that a node that
    served it may have them cached.
    """

    at: float
    model: str
    ask: Ask
    prompt_tokens: int
    output_tokens: int
    known_tokens: int = 0
    turn: int = 0
    priority: int = 5
    caller: str = ""

    @property
    def conversation(self) -> int:
        """Equal for the turns of one conversation; 0 for none."""
        return self.ask.conversation


def pick_zipf(rng: Random, items: Sequence[SimModel]) -> SimModel:
    """Return one of ``items``; the n-th is chosen in proportion to 1/n."""
    weights = [1 / (place + 1) ** ZIPF_EXPONENT for place in range(len(items))]
    return rng.choices(items, weights)[0]


def synthetic(*, rate_per_s: float, requests: int, seed: int) -> list[Request]:
    """Return the mix of a small company: chats, code, embeddings, and batches at low priority.

    Sessions begin in bursts: a source that is now calm, now four times as busy.

    Args:
        rate_per_s: requests a second, over a long time; turns within a conversation keep their pace.
        requests: how many.
        seed: the same one gives the same list.
    """
    rng = Random(seed)
    made: list[Request] = []
    starts = _bursty_starts(rng, rate_per_s / _REQUESTS_PER_SESSION)
    ids = itertools.count(1)
    for start in starts:
        if len(made) >= requests * 1.1 + 50:
            break
        make = rng.choices(_KINDS, _SHARES)[0]
        made.extend(make(rng, start, next(ids)))
    made.sort(key=lambda request: request.at)
    return made[:requests]


_CALM_S, _BUSY_S, _BUSY_FACTOR = 40.0, 20.0, 4.0


def _bursty_starts(rng: Random, rate_per_s: float) -> Iterator[float]:
    """Yield the arrivals of a Poisson process whose rate switches between calm and busy."""
    calm = rate_per_s * (_CALM_S + _BUSY_S) / (_CALM_S + _BUSY_S * _BUSY_FACTOR)
    start, is_busy = 0.0, False
    while True:
        mean_s, rate = (_BUSY_S, calm * _BUSY_FACTOR) if is_busy else (_CALM_S, calm)
        end, at = start + rng.expovariate(1 / mean_s), start
        while (at := at + rng.expovariate(rate)) < end:
            yield at
        start, is_busy = end, not is_busy


def _lognormal(rng: Random, median: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(median * rng.lognormvariate(0.0, sigma))))


def _chat(rng: Random, start: float, session: int) -> list[Request]:
    """Several turns; each prompt holds all that was said before."""
    model = pick_zipf(rng, MODELS)
    is_interactive = rng.random() < 0.4
    caller = f"user{rng.randrange(40)}"
    prompt = _lognormal(rng, 250, 0.8, 3000)
    turns = _conversation(rng, start, prompt)
    return [
        _text_request(
            at,
            model.name,
            Task.CHAT,
            (prompt, output),
            known_tokens=known,
            conversation=session,
            turn=turn,
            priority=8 if is_interactive else 5,
            caller=caller,
        )
        for turn, (at, prompt, output, known) in enumerate(turns)
    ]


_NOMINAL_TOK_S = 25.0


def _conversation(rng: Random, at: float, prompt: int) -> Iterator[tuple[float, int, int, int]]:
    """Yield (moment, prompt tokens, output tokens, known tokens) of each turn."""
    known = 0
    while True:
        output = _lognormal(rng, 180, 0.7, 1200)
        yield at, prompt, output, known
        if rng.random() < 0.3 or prompt > 6000:
            return
        known = prompt + output
        prompt = known + _lognormal(rng, 40, 0.8, 800)
        at += output / _NOMINAL_TOK_S + rng.gammavariate(2.0, 8.0)


def _code(rng: Random, start: float, session: int) -> list[Request]:
    model = pick_zipf(rng, (MODELS[2], MODELS[0], MODELS[4]))
    sizes = _lognormal(rng, 900, 0.8, 8000), _lognormal(rng, 500, 0.6, 2500)
    caller = f"user{rng.randrange(40)}"
    return [_text_request(start, model.name, Task.GENERATE, sizes, caller=caller)]


def _batch(rng: Random, start: float, session: int) -> list[Request]:
    """A job's share: some like requests, one right after another."""
    model = pick_zipf(rng, MODELS[:4])
    return [
        _text_request(
            start + 0.05 * place,
            model.name,
            Task.GENERATE,
            (_lognormal(rng, 400, 0.5, 3000), _lognormal(rng, 80, 0.5, 400)),
            priority=1,
            caller="batch",
        )
        for place in range(rng.randint(4, 12))
    ]


def _embeddings(rng: Random, start: float, session: int) -> list[Request]:
    inputs = rng.choice((1, 1, 4, 16, 32))
    tokens = sum(_lognormal(rng, 120, 0.5, 512) for _ in range(inputs))
    ask = Ask(
        task=Task.EMBED,
        prompt_bytes=tokens * BYTES_PER_TOKEN,
        inputs=inputs,
        needs=frozenset({"embedding"}),
    )
    return [Request(start, EMBEDDER.name, ask, tokens, 0, caller=f"user{rng.randrange(40)}")]


_KINDS: tuple[Callable[[Random, float, int], list[Request]], ...]
_KINDS = (_chat, _code, _batch, _embeddings)
_SHARES = (0.42, 0.14, 0.04, 0.40)
_REQUESTS_PER_SESSION = 0.42 * 3.2 + 0.14 + 0.04 * 8 + 0.40


def _text_request(
    at: float,
    model: str,
    task: Task,
    sizes: tuple[int, int],
    *,
    known_tokens: int = 0,
    conversation: int = 0,
    turn: int = 0,
    priority: int = 5,
    caller: str = "",
) -> Request:
    prompt, output = sizes
    ask = Ask(task=task, prompt_bytes=prompt * BYTES_PER_TOKEN, conversation=conversation)
    return Request(at, model, ask, prompt, output, known_tokens, turn, priority, caller)


def read_azure(path: Path, *, seed: int) -> list[Request]:
    """Return an Azure LLM inference trace of 2023; every request has one of 60 users' models.

    The trace has arrivals and lengths only: users, and by them models, are drawn with ``seed``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such trace.
    """
    rng = Random(seed)
    models = [pick_zipf(rng, MODELS).name for _ in range(60)]
    requests: list[Request] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                moment = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                sizes = max(1, int(row["ContextTokens"])), max(1, int(row["GeneratedTokens"]))
            except KeyError as error:
                raise ValueError(f"{path}: no column {error}") from None
            user = rng.randrange(len(models))
            caller = f"user{user}"
            requests.append(_text_request(moment, models[user], Task.CHAT, sizes, caller=caller))
    return _from_zero(requests)


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


_MOONCAKE_BLOCK_TOKENS = 512


def read_mooncake(path: Path, *, seed: int) -> list[Request]:
    """Return a Mooncake conversation trace; who shares more than the first block shares a conversation.

    The first block is the service's own system prompt, so it tells no conversations apart. Models
    are drawn for each conversation with ``seed``.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such trace.
    """
    rng = Random(seed)
    decode = msgspec.json.Decoder(_MooncakeRow).decode
    owners: dict[int, int] = {}
    models: dict[int, str] = {}
    turns: dict[int, int] = {}
    requests: list[Request] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            shared = sum(1 for _ in itertools.takewhile(owners.__contains__, row.hash_ids[1:]))
            conversation = owners[row.hash_ids[shared]] if shared else number
            owners.update(
                (block, conversation) for block in row.hash_ids[1:] if block not in owners
            )
            turn = turns[conversation] = turns.get(conversation, -1) + 1
            if conversation not in models:
                models[conversation] = pick_zipf(rng, MODELS).name
            requests.append(
                _text_request(
                    row.timestamp / 1000,
                    models[conversation],
                    Task.CHAT,
                    (max(1, row.input_length), max(1, row.output_length)),
                    known_tokens=(shared + 1) * _MOONCAKE_BLOCK_TOKENS if shared else 0,
                    conversation=conversation,
                    turn=turn,
                    caller=f"user{conversation % 60}",
                )
            )
    return _from_zero(requests)


def _from_zero(requests: list[Request]) -> list[Request]:
    requests.sort(key=lambda request: request.at)
    first = requests[0].at if requests else 0.0
    return [replace(request, at=request.at - first) for request in requests]


def window(
    requests: Sequence[Request], *, start_s: float = 0.0, count: int, factor: float = 1.0
) -> list[Request]:
    """Return ``count`` requests of a trace from ``start_s`` on, arriving ``factor`` times as fast."""
    chosen = [request for request in requests if request.at >= start_s][:count]
    return [replace(request, at=(request.at - start_s) / factor) for request in chosen]
