"""Go's reading of JSON: what it takes, what it refuses and in which words."""

import math

import pytest

from sollol.errors import InvalidBody, InvalidRequest
from sollol.wire import gojson
from sollol.wire.gobase64 import base64_error_at
from sollol.wire.goduration import parse_duration
from sollol.wire.gojson import Fields
from sollol.wire.goscan import MAX_DEPTH, MAX_TOKENS
from sollol.wire.gotext import quote, quote_byte

MB = 1 << 20


def read(body: bytes) -> Fields:
    return gojson.top_level(body, "api.ChatRequest", "missing request body")


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidBody) as caught:
        read(body)
    assert isinstance(caught.value, InvalidRequest)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model":"a"}', "a"),
        (b' \r\n\t{ "model" : "a" } \n', "a"),
        (b'{"MODEL":"a"}', "a"),
        (b'{"mo\\u0064el":"a"}', "a"),
        (b'{"model":"a","model":"b"}', "b"),
        (b'{"MODEL":"a","model":"b","Model":"c"}', "c"),
        (b'{"model":"a","MODEL":"b","model":"c"}', "c"),
        (b'{"model":"a"} trailing', "a"),
        (b'{"model":"a"}{"model":"b"}', "a"),
        (b'{"\xff":1,"model":"a"}', "a"),
        (b'{"\\ud800":1,"MODEL":"a"}', "a"),
        (b'{"deep":' + b"[" * 9_999 + b"]" * 9_999 + b',"model":"a"}', "a"),
        (b'{"x":{"model":"b"},"model":"a","y":["model"]}', "a"),
        (b'{"empty":{},"list":[ ],"model":"a"}!', "a"),
        (b'{"model":"a\xff"}', "a\ufffd"),
        (b'{"model":"a\\ud800\\ud83d\\ude00"}', "a\ufffd\U0001f600"),
        (b'{"model":"a\\\\ud800\\\\\\ud800"}', "a\\ud800\\\ufffd"),
        (b'{"model":null}', None),
        (b"{}", None),
        (b"null", None),
        (b" null and more", None),
        (b"nullx", None),
    ],
)
def test_the_model_is_the_one_go_finds(body: bytes, model: str | None) -> None:
    assert read(body).value("model") == model


def test_the_two_letters_that_fold_to_ascii_do() -> None:
    fields = read('{"\u212aeep_alive":0,"me\u017f\u017fage\u017f":[],"É":1}'.encode())
    assert set(fields.raws) == {"keep_alive", "messages", "É"}


def test_null_leaves_a_plain_field_as_it_was() -> None:
    fields = read(b'{"model":"a","Model":null,"n":null}')
    raw = fields.last_set("model")
    assert raw is not None
    assert gojson.decode(raw) == "a"
    assert fields.last_set("n") is None
    assert fields.last_set("absent") is None


def test_pairs_keep_the_order_and_the_duplicates() -> None:
    fields = read(b'{"b":1,"A":2,"b":3} tail')
    assert [(name, bytes(raw)) for name, raw in fields.pairs()] == [
        ("b", b"1"), ("a", b"2"), ("b", b"3"),
    ]  # fmt: skip
    assert read(b"null").pairs() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"a', "unexpected EOF"),
        (b'{"a"', "unexpected EOF"),
        (b'{"a":', "unexpected EOF"),
        (b'{"a":"\\', "unexpected EOF"),
        (b'{"a":"\\u12', "unexpected EOF"),
        (b'{"a":tr', "unexpected EOF"),
        (b'{"a":1', "unexpected EOF"),
        (b'{"a":1.', "unexpected EOF"),
        (b'{"a":1e', "unexpected EOF"),
        (b'{"a":-', "unexpected EOF"),
        (b'{"a":[1,', "unexpected EOF"),
        (b"nul", "unexpected EOF"),
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        (b'{"a":1]', "invalid character ']' after object key:value pair"),
        (b'{"a":[1 2]}', "invalid character '2' after array element"),
        (b'{"a":[1}', "invalid character '}' after array element"),
        (b'{"a":[1,]}', "invalid character ']' looking for beginning of value"),
        (b'{"a":}', "invalid character '}' looking for beginning of value"),
        (b"{\"a\":'x'}", "invalid character '\\'' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
        (b"\x00", "invalid character '\\x00' looking for beginning of value"),
        (b"\x80", "invalid character '\\u0080' looking for beginning of value"),
        (b"\\", "invalid character '\\\\' looking for beginning of value"),
        (b'{"a":"x\ny"}', "invalid character '\\n' in string literal"),
        (b'{"a\x01":1}', "invalid character '\\x01' in string literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        (b'{"a":"\\u"}', "invalid character '\"' in \\u hexadecimal character escape"),
        (b'{"a":tree}', "invalid character 'e' in literal true (expecting 'u')"),
        (b'{"a":txue}', "invalid character 'x' in literal true (expecting 'r')"),
        (b'{"a":falsy}', "invalid character 'y' in literal false (expecting 'e')"),
        (b'{"a":nil}', "invalid character 'i' in literal null (expecting 'u')"),
        (b'{"a":nulx}', "invalid character 'x' in literal null (expecting 'l')"),
        (b'{"a":-x}', "invalid character 'x' in numeric literal"),
        (b'{"a":+1}', "invalid character '+' looking for beginning of value"),
        (b'{"a":1.x}', "invalid character 'x' after decimal point in numeric literal"),
        (b'{"a":1.e5}', "invalid character 'e' after decimal point in numeric literal"),
        (b'{"a":1ex}', "invalid character 'x' in exponent of numeric literal"),
        (b'{"a":1.5e+}', "invalid character '}' in exponent of numeric literal"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":1.5.2}', "invalid character '.' after object key:value pair"),
        (b'{"a":truex}', "invalid character 'x' after object key:value pair"),
        (b'{"a":' + b"[" * 10_000, "invalid character '[' exceeded max depth"),
        (b'{"a":' * 10_001, "invalid character '{' exceeded max depth"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b"[1,{}] x", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b'"x"', "json: cannot unmarshal string into Go value of type api.ChatRequest"),
        (b"12 x", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (b"-1", "json: cannot unmarshal number into Go value of type api.ChatRequest"),
        (b"true", "json: cannot unmarshal bool into Go value of type api.ChatRequest"),
        (b"[1,}", "invalid character '}' looking for beginning of value"),
    ],
)
def test_a_refusal_has_gos_words(body: bytes, message: str) -> None:
    assert refusal(body) == message


def test_a_long_body_is_read_by_the_same_rules() -> None:
    padding = b'"pad":"' + b"A" * 100_000 + b'"'
    assert read(b'{"model":"a",' + padding + b',"MODEL":"b"}').value("model") == "b"
    assert read(b'{"model":"a",' + padding + b',"x":"\\ud800"} tail').value("model") == "a"
    assert refusal(b'{"model":"a",' + padding + b",}").startswith("invalid character '}'")


def test_the_depth_go_accepts_is_accepted() -> None:
    nested = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    fields = read(b'{"a":' + nested + b"}")
    assert bytes(fields.raws["a"]) == nested
    with pytest.raises(InvalidBody, match="exceeded max depth"):
        fields.value("a")


def test_a_number_no_float_can_hold_is_an_error_only_for_its_reader() -> None:
    fields = read(b'{"a":1e999,"model":"m"}')
    assert fields.value("model") == "m"
    with pytest.raises(InvalidBody, match="out of range"):
        fields.value("a")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":[' + b"[[]]," * MAX_TOKENS + b"1]}!", "request body is too complex"),
        (b"{" + b'"a":0,' * 20_000 + b'"b":1}', "request body has too many fields"),
        (b"{" + b'"a":0,' * 20_000 + b'"b":1}!', "request body has too many fields"),
        (
            b'{"a":' + b"[" * 9_000 + b"]" * 9_000 + b"," + b'"a":0,' * 20_000 + b'"b":1}',
            "request body has too many fields",
        ),
        (b'{"a":"' + b"\\n" * (4 * MB), "unexpected EOF"),
        (b'{"a":' + b"[" * (8 * MB), "invalid character '[' exceeded max depth"),
        (b" " * (8 * MB), "missing request body"),
        (b'{"a":' + b"1" * (8 * MB), "unexpected EOF"),
    ],
    ids=[
        "lists",
        "fields",
        "fields and tail",
        "fields and depth",
        "escapes",
        "deep",
        "space",
        "digits",
    ],
)
def test_a_hostile_body_is_refused_in_linear_time(body: bytes, message: str) -> None:
    assert refusal(body) == message


def test_hostile_strings_are_repaired_in_linear_time() -> None:
    halves = read(b'{"a":"' + b"\\ud800" * (MB // 2) + b'"}')
    assert halves.value("a") == "\ufffd" * (MB // 2)
    backslashes = read(b'{"a":"' + b"\\\\" * (2 * MB) + b'\\ud800"}')
    assert backslashes.value("a").endswith("\\\ufffd")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("nope", '"nope"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\a\b\f\n\r\t\v", '"\\a\\b\\f\\n\\r\\t\\v"'),
        ("\x00\x7f", '"\\x00\\x7f"'),
        ("é\U0001f600", '"é\U0001f600"'),
        ("\u00a0\u200b\U000e0001", '"\\u00a0\\u200b\\U000e0001"'),
    ],
)
def test_quoting_is_gos(text: str, quoted: str) -> None:
    assert quote(text) == quoted


@pytest.mark.parametrize(
    ("byte", "quoted"),
    [
        (0x62, "'b'"),
        (0x27, "'\\''"),
        (0x22, "'\"'"),
        (0x5C, "'\\\\'"),
        (0xFF, "'ÿ'"),
        (0, "'\\x00'"),
    ],
)
def test_a_byte_is_quoted_as_in_gos_syntax_errors(byte: int, quoted: str) -> None:
    assert quote_byte(byte) == quoted


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("-0", 0), ("+0s", 0), ("5m", 300), ("1h30m", 5400), ("-1s", -1), ("1.5s", 1.5),
        (".5s", 0.5), ("1.s", 1), ("100ms", 0.1), ("1us", 1e-6), ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6), ("3ns", 3e-9), ("2540400h", 2540400 * 3600),
        ("-9223372036854775808ns", -(2**63) / 1e9),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert math.isclose(parse_duration(text), seconds * 1e9, abs_tol=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".", 'time: invalid duration "."'),
        (" 5m", 'time: invalid duration " 5m"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1..5s", 'time: missing unit in duration "1..5s"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("5m ", 'time: unknown unit "m " in duration "5m "'),
        ("5é", 'time: unknown unit "\\xc3\\xa9" in duration "5\\xc3\\xa9"'),
        ('5"\\', 'time: unknown unit "\\"\\\\" in duration "5\\"\\\\"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("9223372036854775809ns", 'time: invalid duration "9223372036854775809ns"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("1s" * 600, 'time: invalid duration "' + "1s" * 600 + '"'),
    ],
)
def test_what_is_no_duration(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="time: ") as caught:
        parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (b"", None), (b"QQ==", None), (b"QUI=", None), (b"QUI=\r\n", None), (b"QU\nJD", None),
        (b"!!!", 0), (b"QUJD!", 4), (b"Q", 0), (b"QUJD\nQQ", 5), (b"QQ=", 3), (b"QQ=x", 2),
        (b"QQ==x", 4), (b"QUI=\nx", 5), (b"=", 0), (b"Q=", 1),
    ],
)  # fmt: skip
def test_the_place_where_base64_goes_wrong(text: bytes, at: int | None) -> None:
    assert base64_error_at(text) == at
