"""The request that goes on with an answer, and the stream that is joined to what there is."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sollol.errors import CannotContinue, InvalidRequest, ProtocolViolation
from sollol.types import NOTHING_KNOWN
from sollol.wire.ask import ask_of
from sollol.wire.continuation import (
    Delivered,
    Manner,
    SecondLeg,
    check_request,
    continues,
    count_tokens,
    how_it_continues,
    needs_probe,
    probe_key,
    probes,
    read_delivered,
    second_leg,
)
from sollol.wire.gojson import Fields
from sollol.wire.joining import FirstLeg, Joiner, joiner
from sollol.wire.kinds import CHAT, GENERATE, V1_CHAT, BodyKind
from sollol.wire.peek import peek

HI: Any = [{"role": "user", "content": "hi"}]
FIRST = FirstLeg(2.0, lambda: 5.0)


def fields_of(kind: BodyKind, **body: Any) -> Fields:
    return peek(kind, json.dumps({"model": "m"} | body).encode()).fields


def refusal(kind: BodyKind, **body: Any) -> str:
    fields = fields_of(kind, **body)
    try:
        check_request(fields, ask_of(kind, fields))
        second_leg(kind, fields, Delivered("so far", 2))
    except CannotContinue as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("given", "expected"), [(b"continue", True), (b" Continue", True), (b"error", False)]
)
def test_who_wants_it(given: bytes, expected: bool) -> None:
    assert continues(given) is expected


def test_a_wrong_wish_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='must be continue or error; got "yes"'):
        continues(b"yes")


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (CHAT, {"messages": HI}, ""),
        (CHAT, {"messages": HI, "tools": [], "format": "", "logprobs": False}, ""),
        (CHAT, {"messages": HI, "tools": [{"type": "function"}]}, "tools"),
        (CHAT, {"messages": HI, "format": {"type": "object"}}, "a format"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]}, "images"),
        (CHAT, {"messages": HI, "logprobs": True}, "logprobs"),
        (CHAT, {"messages": [*HI, {"role": "assistant", "content": "a"}]}, "beginning of its"),
        (CHAT, {"messages": ["hi"]}, "cannot be read"),
        (CHAT, {"messages": []}, "cannot be read"),
        (GENERATE, {"prompt": "x"}, ""),
        (GENERATE, {"prompt": "x", "suffix": "y"}, "suffix"),
        (GENERATE, {"prompt": "x", "context": [1]}, "context"),
        (GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        (GENERATE, {"prompt": "x", "images": ["aa"]}, "images"),
        (GENERATE, {"prompt": "x", "system": 3}, "system is no text"),
        (V1_CHAT, {"messages": HI, "n": 1}, ""),
        (V1_CHAT, {"messages": HI, "n": 2}, "several answers"),
        (V1_CHAT, {"messages": HI, "grammar": 'root ::= "a"'}, "grammar"),
        (V1_CHAT, {"messages": HI, "response_format": {"type": "json_object"}}, "a format"),
        (V1_CHAT, {"messages": HI, "continue_final_message": True}, "end of the prompt"),
    ],
)
def test_what_is_refused(kind: BodyKind, body: dict[str, Any], reason: str) -> None:
    said = refusal(kind, **body)
    assert reason in said
    assert bool(reason) == bool(said)


def test_a_number_that_no_float_holds_is_a_refusal_too() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"n":1e999}'
    with pytest.raises(CannotContinue, match="n cannot be read"):
        check_request(peek(V1_CHAT, body).fields, NOTHING_KNOWN)


def ndjson(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": text} | more, "done": False}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "x", "created": 1, "model": "m", **more} | {
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]
    }


def test_what_was_delivered() -> None:
    assert read_delivered(CHAT, ndjson(said("a"), said(""), said("b"))) == Delivered("ab", 2)
    raw = ndjson({"response": "a", "done": False})
    assert read_delivered(GENERATE, raw) == Delivered("a", 1)
    sent = sse(chunk({"role": "assistant", "content": None}), chunk({"content": "a"}))
    head = {"id": "x", "created": 1, "model": "m"}
    assert read_delivered(V1_CHAT, sent) == Delivered("a", 1, head=head)
    assert read_delivered(V1_CHAT, sent[:-1]).in_event
    ended = read_delivered(V1_CHAT, sent + sse(chunk({}, "stop")))
    assert (ended.is_finished, ended.has_usage) == (True, False)
    told = read_delivered(V1_CHAT, sent + sse({"choices": [], "usage": {"prompt_tokens": 1}}))
    assert told.has_usage


@pytest.mark.parametrize(
    ("kind", "sent", "reason"),
    [
        (CHAT, ndjson(said("", thinking="hm")), "thinking"),
        (CHAT, ndjson(said("<think>"), said("hm")), "thinking"),
        (GENERATE, ndjson({"response": "", "thinking": "hm"}), "thinking"),
        (CHAT, ndjson(said("", tool_calls=[{}])), "called a tool"),
        (CHAT, ndjson(said("a") | {"logprobs": [{}]}), "probabilities"),
        (CHAT, b"{nonsense\n", "cannot be read"),
        (V1_CHAT, sse(chunk({"content": "", "reasoning": "hm"})), "thinking"),
        (V1_CHAT, b"data: nonsense\n\n", "cannot be read"),
    ],
)
def test_more_than_text_is_not_gone_on_with(kind: BodyKind, sent: bytes, reason: str) -> None:
    with pytest.raises(CannotContinue, match=reason):
        read_delivered(kind, sent)


def leg(kind: BodyKind, delivered: Delivered, **body: Any) -> tuple[BodyKind, Any, bool]:
    found = second_leg(kind, fields_of(kind, **body), delivered)
    return found.kind, json.loads(found.body), found.is_over


SOME = Delivered("so far", 2)
SAID = {"role": "assistant", "content": "so far"}


def test_the_second_leg_of_a_chat() -> None:
    options = {"seed": 7, "num_predict": 5}
    kind, body, is_over = leg(CHAT, SOME, messages=HI, options=options, keep_alive="5m")
    assert (kind, is_over) == (CHAT, False)
    assert body["messages"] == [*HI, SAID]
    assert body["options"] == {"seed": 7, "num_predict": 3}
    assert body["keep_alive"] == "5m"
    assert leg(CHAT, SOME, messages=HI)[1] == {"model": "m", "messages": [*HI, SAID]}


def test_nothing_said_is_the_same_request() -> None:
    assert leg(CHAT, Delivered(), messages=HI)[1] == {"model": "m", "messages": HI}
    assert not needs_probe(CHAT, fields_of(CHAT, messages=HI), Delivered())


def test_a_prompt_goes_on_as_a_chat_unless_raw() -> None:
    kind, body, _ = leg(GENERATE, SOME, prompt="hi", system="Be brief.", raw=False, stream=True)
    system = {"role": "system", "content": "Be brief."}
    assert kind is CHAT
    assert body == {"model": "m", "stream": True, "messages": [system, *HI, SAID]}
    kind, body, _ = leg(GENERATE, SOME, prompt="hi", raw=True)
    assert kind is GENERATE
    assert body == {"model": "m", "prompt": "hiso far", "raw": True}
    assert needs_probe(GENERATE, fields_of(GENERATE, prompt="hi"), SOME)
    assert not needs_probe(GENERATE, fields_of(GENERATE, prompt="hi", raw=True), SOME)


def test_an_answer_that_is_over_needs_its_end_only() -> None:
    assert leg(CHAT, SOME, messages=HI, options={"num_predict": 2})[1:] == (
        {"model": "m", "options": {"num_predict": 1}, "messages": [*HI, SAID]},
        True,
    )
    body = leg(V1_CHAT, SOME, messages=HI, max_tokens=9, max_completion_tokens=2)[1]
    assert (body["max_tokens"], body["max_completion_tokens"]) == (1, 1)
    _, body, is_over = leg(V1_CHAT, SOME._replace(is_finished=True), messages=HI)
    assert (body["max_tokens"], is_over) == (1, True)
    assert leg(V1_CHAT, SOME, messages=HI, max_tokens=9)[1]["max_tokens"] == 7


def test_probes_ask_with_and_without_a_letter() -> None:
    first, second = map(
        json.loads, probes(CHAT, fields_of(CHAT, messages=HI, options={"num_ctx": 512}))
    )
    turn = {"role": "user", "content": "Hi"}
    letter = {"role": "assistant", "content": "Q"}
    options = {"num_ctx": 512, "num_predict": 1}
    assert first == {"model": "m", "options": options, "stream": False, "messages": [turn]}
    assert second == first | {"messages": [turn, letter]}
    fields = fields_of(GENERATE, prompt="x", system="s")
    first, second = map(json.loads, probes(GENERATE, fields))
    assert (first["prompt"], first["system"]) == ("Hi", "s")
    assert second["messages"] == [{"role": "system", "content": "s"}, turn, letter]
    v1 = fields_of(V1_CHAT, messages=HI, stream=True, stream_options={"include_usage": True})
    first, _ = map(json.loads, probes(V1_CHAT, v1))
    assert first == {"model": "m", "stream": False, "max_tokens": 1, "messages": [turn]}
    assert probe_key(GENERATE, fields) != probe_key(GENERATE, fields_of(GENERATE, prompt="x"))
    assert probe_key(CHAT, v1) == probe_key(CHAT, fields_of(CHAT, messages=HI))


def whole(prompt: int | None, text: str) -> bytes:
    record: dict[str, Any] = {"message": {"content": text}, "done": True, "eval_count": 1}
    return json.dumps(record | ({} if prompt is None else {"prompt_eval_count": prompt})).encode()


def test_how_a_node_continues_shows_in_the_tokens_of_its_prompt() -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 1}
    v1 = {"choices": [{"message": {"content": "Q1"}}], "usage": usage}
    assert how_it_continues(whole(7, "I"), whole(8, "u")) is Manner.PLAIN
    assert how_it_continues(whole(7, "I"), whole(8, "Qu")) is Manner.ECHOES
    assert how_it_continues(whole(7, "I"), json.dumps(v1).encode()) is Manner.ECHOES
    assert how_it_continues(whole(7, "I"), whole(13, "I")) is Manner.NOT
    assert how_it_continues(whole(None, "I"), whole(13, "I")) is Manner.NOT
    assert how_it_continues(b'{"error":"no"}', whole(13, "I")) is Manner.NOT
    raw = b'{"response":"Qu","prompt_eval_count":8,"done":true,"eval_count":1}'
    assert how_it_continues(whole(7, "I"), raw) is Manner.ECHOES


def join(
    kind: BodyKind, delivered: Delivered = SOME, *, is_over: bool = False, echoes: bool = False
) -> Joiner:
    made = joiner(kind, delivered, SecondLeg(kind, b"", is_over), FIRST)
    if echoes:
        made.expect_repetition()
    return made


LAST = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True} | {
    "done_reason": "stop",
    "total_duration": 1,
    "load_duration": 4,
    "prompt_eval_count": 9,
    "prompt_eval_cached_count": 8,
    "eval_count": 3,
    "eval_duration": 10,
}


def test_records_are_passed_on_and_the_figures_added_up() -> None:
    made = join(CHAT)
    assert made.feed(ndjson(said("a"), said(""))) == ndjson(said("a"))
    (last,) = map(json.loads, made.feed(ndjson(LAST)[:-1]).splitlines())
    assert made.is_whole
    assert last == LAST | {
        "total_duration": 5_000_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_cached_count": 7,
        "eval_count": 5,
        "eval_duration": 2_000_000_010,
    }


def test_a_chat_is_told_as_what_was_asked_for() -> None:
    made = join(GENERATE)
    told = json.loads(made.feed(ndjson(said("<a>"))))
    assert told == {"model": "m", "response": "<a>", "done": False}
    raw = ndjson({"model": "m", "response": "b", "done": False})
    assert made.feed(raw) == raw


def test_of_an_answer_that_is_over_only_the_end_is_told() -> None:
    made = join(CHAT, is_over=True)
    assert made.feed(ndjson(said("too much"))) == b""
    last = json.loads(made.feed(ndjson(LAST)))
    assert (last["eval_count"], last["done_reason"]) == (2, "length")


def test_what_is_repeated_is_left_out_however_it_comes() -> None:
    made = join(CHAT, echoes=True)
    assert made.feed(ndjson(said("so "))) == b""
    assert json.loads(made.feed(ndjson(said("far and"))))["message"]["content"] == " and"
    with pytest.raises(CannotContinue, match="another answer"):
        join(CHAT, echoes=True).feed(ndjson(said("So what")))


@pytest.mark.parametrize(
    ("kind", "lines", "error"),
    [
        (CHAT, ndjson(said("", thinking="hm")), CannotContinue),
        (CHAT, ndjson(said("", tool_calls=[{}])), CannotContinue),
        (GENERATE, ndjson({"response": "", "thinking": "hm"}), CannotContinue),
        (V1_CHAT, sse(chunk({"reasoning_content": "hm"})), CannotContinue),
        (CHAT, b"nonsense\n", ProtocolViolation),
        (V1_CHAT, b"data: []\n\n", ProtocolViolation),
    ],
)
def test_what_cannot_be_joined(kind: BodyKind, lines: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        join(kind).feed(lines)


@pytest.mark.parametrize(("kind", "write"), [(CHAT, ndjson), (V1_CHAT, sse)])
def test_an_error_is_passed_on(kind: BodyKind, write: Any) -> None:
    made = join(kind)
    assert made.feed(write({"error": "no"})) == write({"error": "no"})
    assert made.is_whole
    assert made.has_failed


HEAD = {"id": "first", "created": 7, "model": "m", "system_fingerprint": "f"}


def test_events_have_the_head_of_the_first_ones() -> None:
    made = join(V1_CHAT, SOME._replace(head=HEAD, in_event=True))
    opening = sse(chunk({"role": "assistant", "content": None}))
    assert made.feed(b": hi\n\n" + opening) == b""
    joined = made.feed(sse(chunk({"content": "a"}), chunk({}, "stop")))
    assert joined.startswith(b"\ndata: ")
    first, second = (json.loads(line[6:]) for line in joined.split(b"\n") if line)
    expected = chunk({"content": "a"}) | {"id": "first", "created": 7}
    assert first == expected
    assert second["choices"][0]["finish_reason"] == "stop"
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    details = {"prompt_tokens_details": {"cached_tokens": 8}}
    told = made.feed(sse({"id": "x", "choices": [], "usage": usage | details}))
    assert json.loads(told[6:]) == {
        "id": "first",
        "choices": [],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 7},
        },
    }
    assert made.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert made.is_whole


def test_the_role_is_told_once() -> None:
    told = join(V1_CHAT).feed(sse(chunk({"role": "assistant", "content": "a"})))
    assert json.loads(told[6:])["choices"][0]["delta"] == {"content": "a"}


def test_what_was_told_of_the_end_is_not_told_again() -> None:
    done = join(V1_CHAT, SOME._replace(is_finished=True, has_usage=True), is_over=True)
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    events = sse(chunk({"content": "a"}), chunk({}, "length"), usage, {"choices": [7]})
    assert done.feed(events + b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    cut = join(V1_CHAT, is_over=True).feed(sse(chunk({"content": "a"}, "stop")))
    assert json.loads(cut[6:])["choices"][0] == {
        "index": 0,
        "delta": {"content": ""},
        "finish_reason": "length",
    }


TEXTS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8)


@given(TEXTS, st.data(), st.booleans(), st.booleans())
def test_any_cut_of_any_text_gives_the_whole(
    texts: list[str], data: st.DataObject, is_v1: bool, echoes: bool
) -> None:
    kind, write = (V1_CHAT, sse) if is_v1 else (CHAT, ndjson)
    record: Any = (lambda text: chunk({"content": text})) if is_v1 else said
    cut_at = data.draw(st.integers(1, len(texts)))
    delivered = read_delivered(kind, write(*map(record, texts[:cut_at])))
    repeated = [delivered.text] if echoes else []
    made = join(kind, delivered, echoes=echoes)
    rest = made.feed(write(*map(record, [*repeated, *texts[cut_at:]])))
    assert delivered.text + read_delivered(kind, rest).text == "".join(texts)


def test_tokens_are_counted_as_far_as_they_can_be_read() -> None:
    line = b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    told = line + line.replace(b'"content":""', b'"content":"a"') + b'{"message":{}}\n'
    assert count_tokens(CHAT, told) == 2
    assert count_tokens(CHAT, told + b"{no\n" + line) == 2
    assert count_tokens(V1_CHAT, b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n') == 1
