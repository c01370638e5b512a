"""Our reading of JSON against Python's, and against anything that is nearly JSON."""

import json
from typing import Any

from hypothesis import example, given, strategies as st

from sollol.errors import InvalidBody, SollolError
from sollol.wire import gojson
from sollol.wire.bodies import ollama_error, openai_error
from sollol.wire.checks import check_request, model_not_found
from sollol.wire.gojson import Fields
from sollol.wire.goscan import scan
from sollol.wire.kinds import BODY_KINDS, BodyKind
from sollol.wire.names import display_name, is_valid_name, model_key, parse_name
from sollol.wire.peek import peek

NAMES = ["model", "stream", "messages", "prompt", "input", "keep_alive", "think", "images", "x"]
text = st.text(max_size=8) | st.text('\\"u d8/{}[],:', max_size=8)
value = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def cased(draw: st.DrawFn, name: str) -> str:
    """A name in which some letters are in the other case, or are letters that fold to them."""
    folds = {"s": "s\u017fS", "k": "k\u212aK"}
    return "".join(draw(st.sampled_from(folds.get(c, c + c.upper()))) for c in name)


key = st.sampled_from(NAMES).flatmap(cased) | st.text('abc\n"\\é\U0001f600', max_size=4)
members = st.lists(st.tuples(key, value), max_size=6)
space = st.text(" \t\r\n", max_size=2)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """An object's text, with duplicates and white space, and its fields by a naive reading."""
    ascii_only = draw(st.booleans())
    pieces, fields = [], {}
    for name, item in draw(members):
        gap = draw(space)
        name_text = json.dumps(name, ensure_ascii=ascii_only)
        item_text = json.dumps(
            item, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1]))
        )
        pieces.append(f"{gap}{name_text}{gap}:{gap}{item_text}{gap}")
        fields[naive_fold(name)] = item
    return ("{" + ",".join(pieces) + "}").encode("utf-8"), fields


def naive_fold(name: str) -> str:
    folds = {"\u017f": "s", "\u212a": "k"}
    return "".join(folds.get(c, c.lower() if c.isascii() else c) for c in name)


def read(body: bytes) -> Fields:
    return gojson.top_level(body, "api.ChatRequest", "missing request body")


@given(objects(), st.sampled_from([b"", b" \n", b" tail", b"}", b"{", b"\xff"]))
def test_a_valid_object_is_read_as_a_naive_reader_reads_it(
    written: tuple[bytes, dict[str, Any]], tail: bytes
) -> None:
    body, expected = written
    fields = read(body + tail)
    assert {name: fields.value(name) for name in fields.raws} == expected


@given(objects())
def test_the_scanner_finds_the_members_msgspec_finds(written: tuple[bytes, dict[str, Any]]) -> None:
    body, _ = written
    start, end, found = scan(b" " + body + b",")
    assert (start, end) == (1, 1 + len(body))
    seen = [bytes(raw) for _, raw in read(body).pairs()]
    assert [(b" " + body)[at:stop] for _, at, stop in found] == seen


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A body like those of clients, with a few bytes changed, taken out or put in."""
    body = bytearray(draw(objects())[0])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        cut = draw(st.integers(0, 2))
        body[at : at + cut] = draw(
            st.binary(max_size=2) | st.sampled_from([b"\\", b'"', b"\\u", b"}"])
        )
    return bytes(body)


@given(mutated() | st.binary(max_size=40))
@example(b'{"model":"\\ud800","x":"\xff"}!')
@example(b'{"images":["\\ud800"],"context":["\\ud800"]}!')
@example(b'{"a":"\\\x00"}')
def test_a_broken_body_is_read_or_refused_and_python_agrees(body: bytes) -> None:
    try:
        fields = read(body)
    except InvalidBody:
        assert not is_object_to_python(body)
        return
    for name in fields.raws:
        fields.value(name)


def is_object_to_python(body: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN and the infinities are no JSON

    try:
        read_ = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except ValueError:
        return False
    return isinstance(read_, dict)


@given(st.sampled_from(list(BODY_KINDS.values())), mutated() | objects().map(lambda pair: pair[0]))
def test_whatever_a_body_holds_it_is_peeked_or_refused(kind: BodyKind, body: bytes) -> None:
    try:
        seen = peek(kind, body)
        check_request(kind, seen)
    except SollolError as error:
        message = str(error)
    else:
        message = str(model_not_found(kind, seen.model))
    assert json.loads(ollama_error(message)) == {"error": message}
    assert json.loads(openai_error(400, message))["error"]["message"] == message


@given(st.text(max_size=20) | st.text("abA/:._-@ \u212a", max_size=12))
@example("x:cloud")
def test_a_key_is_the_key_of_itself(name: str) -> None:
    once = model_key(name)
    assert model_key(once) == once or once == name
    if is_valid_name(name):
        assert model_key(name.upper()) == once or not name.isascii()
        assert is_valid_name(display_name(name))


@given(st.from_regex(r"[a-z0-9_][A-Za-z0-9_.-]{0,5}(:[a-z0-9_][a-z0-9_.]{0,5})?", fullmatch=True))
def test_a_name_and_its_displayed_form_are_one_model(name: str) -> None:
    assert model_key(parse_name(name).display) == model_key(name)
