"""What callers ask for: made, and read from traces."""

import itertools
from collections import defaultdict
from pathlib import Path

import pytest

from sollol.bench.traces import read_azure, read_mooncake, window
from sollol.bench.workload import (
    EMBEDDER,
    MODELS,
    Request,
    batch_under_chat,
    mixed_contexts,
    synthetic,
)
from sollol.bench.workloads import Kind, Source
from sollol.types import Task

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:05.9799600,4808,10
2023-11-16 18:17:03.9799600,30,0
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 1500, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 2000, "input_length": 900, "output_length": 5, "hash_ids": [0, 7]}
{"timestamp": 5500, "input_length": 2600, "output_length": 9, "hash_ids": [0, 1, 2, 3, 4, 5]}
{"timestamp": 6000, "input_length": 100, "output_length": 9, "hash_ids": [0]}
"""


def test_a_seed_decides_everything() -> None:
    one, same, other = (synthetic(rate_per_s=2.0, requests=200, seed=s) for s in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.parametrize("rate_per_s", [0.5, 4.0])
def test_the_mix_comes_at_about_the_rate_and_in_order(rate_per_s: float) -> None:
    made = synthetic(rate_per_s=rate_per_s, requests=6000, seed=1)
    assert len(made) == 6000
    assert [request.at for request in made] == sorted(request.at for request in made)
    assert len(made) / made[-1].at == pytest.approx(rate_per_s, rel=0.15)


def test_the_mix_is_mixed() -> None:
    made = synthetic(rate_per_s=2.0, requests=3000, seed=1)
    assert {request.model for request in made} == {m.name for m in (*MODELS, EMBEDDER)}
    assert {request.priority for request in made} == {1, 5, 8}
    assert {request.ask.task for request in made} == {Task.CHAT, Task.GENERATE, Task.EMBED}


def turns_of(made: list[Request]) -> list[list[Request]]:
    turns = defaultdict(list)
    for request in made:
        if request.conversation:
            turns[request.conversation].append(request)
    return list(turns.values())


def test_each_prompt_of_a_conversation_holds_what_was_said_before() -> None:
    conversations = turns_of(synthetic(rate_per_s=2.0, requests=3000, seed=1))
    assert max(map(len, conversations)) > 3
    for turns in conversations:
        assert len({(turn.model, turn.caller) for turn in turns}) == 1
        for before, after in itertools.pairwise(turns):
            assert after.turn == before.turn + 1
            assert after.known_tokens == before.prompt_tokens + before.output_tokens
            assert after.prompt_tokens > after.known_tokens


def test_applications_want_other_contexts_of_the_same_models() -> None:
    made = mixed_contexts(rate_per_s=2.0, requests=500, seed=1)
    wanted = {(request.model, request.ask.num_ctx) for request in made}
    assert len(wanted) == 8
    assert {request.model for request in made} == {model.name for model in MODELS[:2]}
    assert made == mixed_contexts(rate_per_s=2.0, requests=500, seed=1)


def test_chats_are_the_same_with_batch_traffic_and_without() -> None:
    both = batch_under_chat(batch_per_s=2.0, chat_per_s=0.5, seconds=200.0, seed=1)
    alone = batch_under_chat(batch_per_s=0.0, chat_per_s=0.5, seconds=200.0, seed=1)
    assert [request for request in both if request.priority == 8] == alone
    assert {request.priority for request in both} == {1, 8}
    assert alone[0].at > 20.0


def test_an_azure_trace_gives_arrivals_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    first, second = read_azure(path, seed=1)
    assert (first.at, first.prompt_tokens, first.output_tokens) == (0.0, 30, 1)
    assert (second.at, second.prompt_tokens, second.output_tokens) == (2.0, 4808, 10)
    assert read_azure(path, seed=1) == [first, second]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", AZURE + "2023-11-16 18:17:03,x,1\n"])
def test_another_file_is_no_azure_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="no Azure trace"):
        read_azure(path, seed=1)


def test_a_mooncake_trace_gives_conversations_by_shared_blocks(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    one, other, again, short = read_mooncake(path, seed=1)
    assert (again.conversation, again.model) == (one.conversation, one.model)
    assert (one.turn, again.turn, again.known_tokens) == (0, 1, 1536)
    assert len({one.conversation, other.conversation, short.conversation}) == 3
    assert [request.at for request in (one, other, again)] == [0.0, 1.0, 4.5]


@pytest.mark.parametrize("text", ["{}\n", "no json\n"])
def test_another_file_is_no_mooncake_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE + text)
    with pytest.raises(ValueError, match="line 5: no Mooncake trace"):
        read_mooncake(path, seed=1)


def test_an_empty_trace_has_no_requests(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("")
    assert read_mooncake(path, seed=1) == []


def test_a_part_of_a_trace_can_be_replayed_faster() -> None:
    made = synthetic(rate_per_s=2.0, requests=300, seed=1)
    part = window(made, start_s=20.0, count=50, factor=2.0)
    first = next(request for request in made if request.at >= 20.0)
    assert part[0].at == pytest.approx((first.at - 20.0) / 2)
    assert len(part) == 50


def test_a_trace_comes_at_any_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    source = Source(Kind.MOONCAKE, path)
    part = source.make(10.0, 4, 1)
    assert [request.at for request in part] == pytest.approx([0.0, 0.06, 0.27, 0.3])
    assert source.make(10.0, 4, 1) == part


def test_a_trace_that_ends_before_its_beginning_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(MOONCAKE)
    with pytest.raises(ValueError, match="no requests from second 100 on"):
        Source(Kind.MOONCAKE, path, 100.0).make(1.0, 10, 1)
