"""Whole lines come out, whatever the pieces that went in."""

import itertools

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists

from sollol.errors import ProtocolViolation
from sollol.wire.streams import MAX_LINE_BYTES, StreamFraming, WholeLines, last_record


@given(binary(max_size=200), lists(integers(0, 200), max_size=20))
def test_any_split_gives_the_same_bytes_in_whole_lines(stream: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    sut = WholeLines()
    out = [sut.feed(piece) for piece in pieces]
    assert all(piece == b"" or piece.endswith(b"\n") for piece in out)
    assert b"".join(out) + sut.rest() == stream
    assert b"\n" not in sut.rest()


@pytest.mark.parametrize(
    ("line", "is_last"),
    [
        (b"data: [DONE]", True),
        (b'data: {"type":"message_stop"}', True),
        (b'data: {"type":"response.completed","response":{}}', True),
        (b'data: {"type":"response.incomplete","response":{}}', True),
        (b'data: {"type":"error","error":{}}', True),
        (b'data: {"type":"response.output_text.delta","delta":"message_stop"}', False),
        (b'data: {"type":"message_delta"}', False),
        (b'data: {"type":', False),
        (b"event: message_stop", False),
    ],
)
def test_a_stream_of_events_ends_in_a_last_event(line: bytes, is_last: bool) -> None:
    assert (last_record(line, StreamFraming.SSE) is not None) is is_last


def test_the_empty_line_after_an_event_is_not_the_last_line() -> None:
    sut = WholeLines()
    sut.feed(b"data: [DONE]\n")
    sut.feed(b"\n")
    assert sut.last_line() == b"data: [DONE]"


def test_the_last_line_is_found_across_pieces() -> None:
    sut = WholeLines()
    for piece in (b'{"a":1}\n{"done"', b":tr", b"ue}\n"):
        sut.feed(piece)
    assert sut.last_line() == b'{"done":true}'


def test_a_line_without_end_is_a_violation() -> None:
    sut = WholeLines()
    half = b"x" * (MAX_LINE_BYTES // 2 + 1)
    sut.feed(half)
    with pytest.raises(ProtocolViolation):
        sut.feed(half)


@pytest.mark.parametrize(
    ("line", "framing", "expected"),
    [
        (b'{"model":"m","done":true,"done_reason":"stop"}', StreamFraming.NDJSON, True),
        (b'{"error":"boom"}', StreamFraming.NDJSON, True),
        (b'{"model":"m","response":"\\"done\\":true","done":false}', StreamFraming.NDJSON, False),
        (b'{"message":{"tool_calls":[{"done":true}]},"done":false}', StreamFraming.NDJSON, False),
        (b'{"message":{"tool_calls":[{"done":false}]},"done":true}', StreamFraming.NDJSON, True),
        (b'{"done":tr', StreamFraming.NDJSON, False),
        (b"", StreamFraming.NDJSON, False),
        (b"data: [DONE]", StreamFraming.SSE, True),
        (b'data: {"error":{"message":"boom"}}', StreamFraming.SSE, True),
        (b'data: {"choices":[]}', StreamFraming.SSE, False),
    ],
)
def test_only_a_final_record_ends_a_stream(
    line: bytes, framing: StreamFraming, expected: bool
) -> None:
    assert (last_record(line, framing) is not None) is expected


def test_the_framing_is_told_by_the_content_type() -> None:
    assert StreamFraming.of(b"application/x-ndjson") is StreamFraming.NDJSON
    assert StreamFraming.of(b"Text/Event-Stream; charset=utf-8") is StreamFraming.SSE
    assert StreamFraming.of(b"application/json; charset=utf-8") is None
