"""What callers ask for and when, made by rule; ``bench/traces.py`` reads it from published traces."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

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


def text_ask(task: Task, prompt_tokens: int, conversation: int = 0, num_ctx: int = 0) -> Ask:
    """Return what a request for text asks for; 0 for no conversation, and for any context."""
    options = (("num_ctx", num_ctx),) if num_ctx else ()
    prompt_bytes = prompt_tokens * BYTES_PER_TOKEN
    return Ask(task, prompt_bytes=prompt_bytes, conversation=conversation, options=options)


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
    while len(made) < requests * 1.1 + 50:  # the last sessions go on when others would have begun
        make = rng.choices(_KINDS, _SHARES)[0]
        made.extend(make(rng, next(starts), next(ids)))
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
    model = pick_zipf(rng, MODELS).name
    priority = 8 if rng.random() < 0.4 else 5
    caller = _user(rng)
    turns = _conversation(rng, start, _lognormal(rng, 250, 0.8, 3000))
    return [
        Request(
            at,
            model,
            text_ask(Task.CHAT, prompt, session),
            prompt,
            output,
            known_tokens=known,
            turn=turn,
            priority=priority,
            caller=caller,
        )
        for turn, (at, prompt, output, known) in enumerate(turns)
    ]


def _user(rng: Random) -> str:
    return f"user{rng.randrange(40)}"


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
    model = pick_zipf(rng, (MODELS[2], MODELS[0], MODELS[4])).name
    prompt, output = _lognormal(rng, 900, 0.8, 8000), _lognormal(rng, 500, 0.6, 2500)
    ask = text_ask(Task.GENERATE, prompt)
    return [Request(start, model, ask, prompt, output, caller=_user(rng))]


def _batch(rng: Random, start: float, session: int) -> list[Request]:
    """A job's share: some like requests, one right after another."""
    model = pick_zipf(rng, MODELS[:4]).name
    count = rng.randint(4, 12)
    return [_batch_request(rng, start + 0.05 * place, model) for place in range(count)]


def _batch_request(rng: Random, at: float, model: str) -> Request:
    prompt, output = _lognormal(rng, 400, 0.5, 3000), _lognormal(rng, 80, 0.5, 400)
    ask = text_ask(Task.GENERATE, prompt)
    return Request(at, model, ask, prompt, output, priority=1, caller="batch")


def _embeddings(rng: Random, start: float, session: int) -> list[Request]:
    inputs = rng.choice((1, 1, 4, 16, 32))
    tokens = sum(_lognormal(rng, 120, 0.5, 512) for _ in range(inputs))
    ask = Ask(
        task=Task.EMBED,
        prompt_bytes=tokens * BYTES_PER_TOKEN,
        inputs=inputs,
        needs=frozenset({"embedding"}),
    )
    return [Request(start, EMBEDDER.name, ask, tokens, 0, caller=_user(rng))]


_KINDS: tuple[Callable[[Random, float, int], list[Request]], ...]
_KINDS = (_chat, _code, _batch, _embeddings)
_SHARES = (0.42, 0.14, 0.04, 0.40)
_REQUESTS_PER_SESSION = 0.42 * 3.2 + 0.14 + 0.04 * 8 + 0.40


def mixed_contexts(*, rate_per_s: float, requests: int, seed: int) -> list[Request]:
    """Return short chats on two models by applications that each want another context length."""
    rng = Random(seed)
    applications = [
        (model.name, num_ctx) for model in MODELS[:2] for num_ctx in (0, 2048, 4096, 8192)
    ]
    made, at = [], 0.0
    for _ in range(requests):
        at += rng.expovariate(rate_per_s)
        place = rng.randrange(len(applications))
        model, num_ctx = applications[place]
        prompt, output = _lognormal(rng, 300, 0.6, 1500), _lognormal(rng, 100, 0.5, 400)
        ask = text_ask(Task.CHAT, prompt, num_ctx=num_ctx)
        made.append(Request(at, model, ask, prompt, output, caller=f"application{place}"))
    return made


def batch_under_chat(
    *, batch_per_s: float, chat_per_s: float, seconds: float, seed: int
) -> list[Request]:
    """Return batch traffic at priority 1 and, from a tenth of the time on, chats at priority 8.

    Those of priority 8 alone are the same whatever ``batch_per_s`` is.
    """
    rng, chat_rng = Random(seed), Random(seed + 1)
    made, at = [], 0.0
    while batch_per_s and (at := at + rng.expovariate(batch_per_s)) < seconds:
        made.append(_batch_request(rng, at, pick_zipf(rng, MODELS[:3]).name))
    at = seconds / 10
    while (at := at + chat_rng.expovariate(chat_per_s)) < seconds:
        prompt = _lognormal(chat_rng, 250, 0.8, 3000)
        output = _lognormal(chat_rng, 180, 0.7, 1200)
        model = pick_zipf(chat_rng, MODELS[:3]).name
        ask = text_ask(Task.CHAT, prompt)
        made.append(Request(at, model, ask, prompt, output, priority=8, caller=_user(chat_rng)))
    return sorted(made, key=lambda request: request.at)


def steady_chat(model: str, *, rate_per_s: float, seconds: float, seed: int) -> list[Request]:
    """Return short chats with one model, none of which go on."""
    rng = Random(seed)
    made, at = [], 0.0
    while (at := at + rng.expovariate(rate_per_s)) < seconds:
        prompt, output = _lognormal(rng, 200, 0.5, 1500), _lognormal(rng, 120, 0.5, 500)
        made.append(Request(at, model, text_ask(Task.CHAT, prompt), prompt, output))
    return made
