"""Published traces of inference services, by their path; nothing of them is shipped.

They have arrivals and lengths, and no models, users or priorities: those are drawn with a seed.
"""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec

from sollol.bench.workload import MODELS, Request, pick_zipf, text_ask
from sollol.types import Task

_USERS = 60


def read_azure(path: Path, *, seed: int) -> list[Request]:
    """Return an Azure LLM inference trace of 2023, its requests spread over users with a model each.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such trace.
    """
    rng = Random(seed)
    models = [pick_zipf(rng, MODELS).name for _ in range(_USERS)]
    requests = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            user = rng.randrange(_USERS)
            try:
                moment = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                prompt = max(1, int(row["ContextTokens"]))
                output = max(1, int(row["GeneratedTokens"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no Azure trace: {error}") from None
            ask = text_ask(Task.CHAT, prompt)
            caller = f"user{user}"
            requests.append(Request(moment, models[user], ask, prompt, output, caller=caller))
    return _from_zero(requests)


class _MooncakeRow(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


_MOONCAKE_BLOCK_TOKENS = 512


class _Conversations:
    """Tells conversations by the blocks that prompts begin with, each a hash of all before it.

    The first block is the service's own system prompt, which all have in common.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._owners: dict[int, int] = {}
        self._models: dict[int, str] = {}
        self._turns: dict[int, int] = {}

    def request(self, number: int, row: _MooncakeRow) -> Request:
        blocks = row.hash_ids[1:]
        shared = sum(1 for _ in itertools.takewhile(self._owners.__contains__, blocks))
        conversation = self._owners[blocks[shared - 1]] if shared else number
        for block in blocks:
            self._owners.setdefault(block, conversation)
        turn = self._turns[conversation] = self._turns.get(conversation, -1) + 1
        if not turn:
            self._models[conversation] = pick_zipf(self._rng, MODELS).name
        prompt = max(1, row.input_length)
        return Request(
            row.timestamp / 1000,
            self._models[conversation],
            text_ask(Task.CHAT, prompt, conversation),
            prompt,
            max(1, row.output_length),
            known_tokens=min(prompt, (shared + 1) * _MOONCAKE_BLOCK_TOKENS) if shared else 0,
            turn=turn,
            caller=f"user{conversation % _USERS}",
        )


def read_mooncake(path: Path, *, seed: int) -> list[Request]:
    """Return a Mooncake conversation trace; each conversation has one model.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such trace.
    """
    conversations = _Conversations(Random(seed))
    decode = msgspec.json.Decoder(_MooncakeRow).decode
    requests = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}, line {number}: no Mooncake trace: {error}") from None
            requests.append(conversations.request(number, row))
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
