"""A body that was edited means the same, but for what was taken out or replaced."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sollol.wire.edit import edited, with_options
from sollol.wire.gojson import Fields, top_level

ODD_NAMES = ["priority", "PRIORITY", "Priority", "model", "options", "Option\u017f", "é", 'a"b', ""]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
SPACE = st.text(" \t\r\n", max_size=2)


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, Any]]:
    names = st.sampled_from(ODD_NAMES) | st.text(max_size=5)
    return draw(st.lists(st.tuples(names, VALUES), max_size=8))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Legal JSON as odd as Go takes it: repeated names, any case, space, bytes after it."""
    pairs = draw(members())
    texts = []
    for name, value in pairs:
        ascii_only = draw(st.booleans())
        key = json.dumps(name, ensure_ascii=ascii_only)
        told = json.dumps(value, ensure_ascii=ascii_only, indent=draw(st.none() | st.just(1)))
        texts.append(draw(SPACE) + key + draw(SPACE) + ":" + draw(SPACE) + told + draw(SPACE))
    tail = draw(st.sampled_from(["", "\n", " trailing", "{}"]))
    text = draw(SPACE) + "{" + (",".join(texts) or draw(SPACE)) + "}" + tail
    return text.encode("utf-8", "surrogatepass")


def read(body: bytes) -> Fields:
    return top_level(body, "api.ChatRequest", "EOF")


def pairs_of(body: bytes) -> list[tuple[str, bytes]]:
    return [(name, bytes(raw)) for name, raw in read(body).pairs()]


@given(bodies())
def test_what_is_left_is_what_was_there(body: bytes) -> None:
    sut = edited(read(body), remove={"priority"})
    kept = [(name, raw) for name, raw in pairs_of(body) if name != "priority"]
    assert pairs_of(sut) == kept


@given(bodies())
def test_a_replaced_field_has_the_new_value_in_its_last_place(body: bytes) -> None:
    before = pairs_of(body)
    after = pairs_of(edited(read(body), remove={"model"}, replace={"options": b'{"x":1}'}))
    others = [pair for pair in before if pair[0] not in ("options", "model")]
    assert [pair for pair in after if pair[0] != "options"] == others
    assert [raw for name, raw in after if name == "options"] == [b'{"x":1}']
    names = [name for name, _ in before if name != "model"]
    if "options" in names:
        behind = names[len(names) - names[::-1].index("options") :]
        assert [name for name, _ in after][-len(behind) - 1 :] == ["options", *behind]
    else:
        assert after[-1][0] == "options"


def top_level_pairs(body: bytes) -> list[tuple[str, Any]]:
    levels: list[list[tuple[str, Any]]] = []
    json.loads(body, object_pairs_hook=levels.append)
    return levels[-1]


@given(members())
def test_options_that_stay_are_unchanged(pairs: list[tuple[str, Any]]) -> None:
    raw = b"{" + b", ".join(f"{json.dumps(n)} : {json.dumps(v)}".encode() for n, v in pairs) + b"}"
    names = {"priority", "model"}
    sut = with_options(raw, names, [("model", 1.5)])
    kept = [(name, value) for name, value in pairs if name not in names] + [("model", 1.5)]
    assert [name for name, _ in top_level_pairs(sut)] == [name for name, _ in kept]
    assert json.loads(sut) == dict(kept)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m","Priority":1,"PRIORITY":2,"x":3}', b'{"model":"m","x":3}'),
        (b' { "priority" : 5 } \n', b"{}"),
        (b'{"pr\\u0069ority":5,"b":1.50}', b'{"b":1.50}'),
        (b'{"a":"\xff","priority":1} tail', b'{"a":"\xff"}'),
        (b'{"\\ud800":1,"priority":1}', b'{"\\ud800":1}'),
        (b"null", b"{}"),
    ],
)
def test_odd_bodies(body: bytes, expected: bytes) -> None:
    assert edited(read(body), remove={"priority"}) == expected


def test_deeply_nested_values_stay() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"deep":' + deep + b',"priority":1}'
    assert edited(read(body), remove={"priority"}) == b'{"deep":' + deep + b"}"


@pytest.mark.parametrize(
    ("options", "names", "expected"),
    [
        (b'{"num_ctx":1,"seed":2}', {"num_ctx"}, b'{"seed":2,"num_ctx":8}'),
        (b'{"num_ctx":1}', {"num_ctx"}, b'{"num_ctx":8}'),
        (b'{"NUM_CTX":1}', {"num_ctx"}, b'{"NUM_CTX":1,"num_ctx":8}'),
        (b'{"num_ctx":1,"num_ctx":2}', {"num_ctx", "num_gpu"}, b'{"num_ctx":8}'),
        (b"null", {"num_ctx"}, b'{"num_ctx":8}'),
    ],
)
def test_options_are_replaced(options: bytes, names: set[str], expected: bytes) -> None:
    assert with_options(options, names, [("num_ctx", 8)]) == expected
