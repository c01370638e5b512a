import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sollol.errors import ProtocolViolation
from sollol.wire.ollama import Clock
from sollol.wire.sse import SseParser
from sollol.wire.translate_request import LocalAnswer
from tests.translating import translated

LINE_ENDS = (b"\n", b"\r\n", b"\r")
lines = st.sampled_from(
    [
        b"data: a",
        b"data:b",
        b"data:",
        b"data",
        b"data:  two",
        b": note",
        b"event: x",
        b"",
        b"",
        b"\xff",
    ]
)
streams = st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS))).map(
    lambda pairs: b"".join(line + end for line, end in pairs)
)
cuts = st.lists(st.integers(0, 200), max_size=8)


def split(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def events_of(pieces: list[bytes], max_event_bytes: int = 1 << 20) -> list[bytes]:
    parser = SseParser(max_event_bytes)
    return [event for piece in pieces for event in parser.feed(piece)]


@given(streams, cuts)
def test_every_split_gives_the_same_events(stream: bytes, at: list[int]) -> None:
    assert events_of(split(stream, at)) == events_of([stream])


@given(st.binary(max_size=200), cuts)
def test_any_bytes_are_read_the_same_however_they_come(stream: bytes, at: list[int]) -> None:
    assert events_of(split(stream, at)) == events_of([stream])


@given(st.lists(st.binary(max_size=20).filter(lambda d: not set(d) & set(b"\r\n"))), cuts)
def test_what_a_server_sends_arrives(payloads: list[bytes], at: list[int]) -> None:
    stream = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    assert events_of(split(stream, at)) == payloads


@given(streams, cuts, st.integers(1, 12))
def test_the_bound_does_not_depend_on_the_split(stream: bytes, at: list[int], limit: int) -> None:
    def outcome(pieces: list[bytes]) -> list[bytes] | None:
        try:
            return events_of(pieces, limit)
        except ProtocolViolation:
            return None

    assert outcome(split(stream, at)) == outcome([stream])


def test_lines_of_one_event_are_joined_and_a_byte_order_mark_is_skipped() -> None:
    assert events_of([b"\xef\xbb", b"\xbfdata: a\ndata: b\n", b"\n"]) == [b"a\nb"]


def test_an_event_without_its_empty_line_is_not_given_out() -> None:
    assert events_of([b"data: a\n"]) == []


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    parser = SseParser(max_event_bytes=1000)
    with pytest.raises(ProtocolViolation):
        for _ in range(11):
            parser.feed(b"x" * 100)


@given(st.lists(st.text(min_size=1), min_size=1), cuts)
def test_a_stream_is_translated_the_same_however_it_comes(texts: list[str], at: list[int]) -> None:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    stream += b"data: [DONE]\n\n"
    clock = Clock(utc_ns=lambda: 0, monotonic_ns=lambda: 0)
    fields = {"messages": [{"role": "user", "content": "x"}]}
    response = translated("/api/chat", fields, clock=clock).response
    assert not isinstance(response, LocalAnswer)
    told = [response.feed(piece) for piece in split(stream, at)] + [response.finish()]
    assert all(piece.endswith(b"\n") for piece in told if piece)
    records = [json.loads(line) for line in b"".join(told).splitlines()]
    assert "".join(record["message"]["content"] for record in records) == "".join(texts)
    assert [record["done"] for record in records] == [False] * len(texts) + [True]
