"""What a stream says before its answer."""

import json

import pytest

from sollol.wire.kinds import (
    BODY_KINDS,
    CHAT,
    EMBED,
    GENERATE,
    SHOW,
    V1_ANTHROPIC_MESSAGES,
    V1_CHAT,
    V1_EMBEDDINGS,
    V1_RESPONSES,
    V1_TRANSCRIPTIONS,
)
from sollol.wire.load_records import (
    has_load_records,
    load_record,
    load_text,
    stream_headers,
)
from sollol.wire.ollama import Clock
from sollol.wire.sse import SseParser
from sollol.wire.streams import StreamFraming, last_record

STOPPED = Clock(lambda: 1_500_000_000, lambda: 0)
TOLD = [kind for kind in BODY_KINDS.values() if has_load_records(kind)]


@pytest.mark.parametrize("kind", [EMBED, SHOW, V1_EMBEDDINGS, V1_TRANSCRIPTIONS])
def test_only_streams_of_text_say_something(kind: object) -> None:
    assert kind not in TOLD
    assert len(TOLD) == 6


def test_ollamas_are_parts_of_an_answer() -> None:
    for kind, nothing in (
        (CHAT, {"message": {"role": "assistant", "content": ""}}),
        (GENERATE, {"response": ""}),
    ):
        record = load_record(kind, "a<b", "loading", STOPPED)
        assert record.endswith(b"}\n")
        assert record.count(b"\n") == 1
        stamp = "1970-01-01T00:00:01.5Z"
        assert json.loads(record) == {
            "model": "a<b",
            "created_at": stamp,
            **nothing,
            "done": False,
        }


def test_events_have_no_data_but_for_a_ping() -> None:
    for kind in TOLD:
        if kind in (CHAT, GENERATE):
            continue
        is_ping = kind is V1_ANTHROPIC_MESSAGES
        data = SseParser().feed(load_record(kind, "m", "loading 5%"))
        assert data == ([b'{"type":"ping"}'] if is_ping else [])
    assert load_record(V1_CHAT, "m", "loading 5%") == b": loading 5%\n\n"


def test_none_of_them_ends_a_stream() -> None:
    for kind in TOLD:
        framing = StreamFraming.of(dict(stream_headers(kind))[b"content-type"])
        assert framing is not None
        lines = load_record(kind, "m", "x").splitlines()
        assert all(last_record(line, framing) is None for line in lines)


def test_the_head_is_that_of_a_stream() -> None:
    assert stream_headers(CHAT) == [(b"content-type", b"application/x-ndjson")]
    assert stream_headers(V1_CHAT) == [(b"content-type", b"text/event-stream")]
    assert (b"cache-control", b"no-cache") in stream_headers(V1_RESPONSES)


@pytest.mark.parametrize(
    ("share", "eta_s", "text"),
    [
        (0.0, None, "loading 0%"),
        (0.424, 29.6, "loading 42%, about 30 s left"),
        (1.0, 0.0, "loading 100%"),
    ],
)
def test_a_text_tells_how_far_it_is(share: float, eta_s: float | None, text: str) -> None:
    assert load_text(share, eta_s) == text
