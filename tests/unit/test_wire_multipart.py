"""The model that a form names."""

import pytest

from sollol.errors import InvalidBody
from sollol.wire.multipart import MAX_PARTS, peek_form, with_model

TYPE = b'multipart/form-data; boundary="b--b"'


def form(*parts: tuple[str, bytes]) -> bytes:
    pieces = [
        b"--b--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), value)
        for head, value in parts
    ]
    return b"".join(pieces) + b"--b--b--\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [('name="model"', b"whisper")],
        [('name="file"; filename="a.wav"', b"\0\r\n\r\n--b-" * 1000), ('name="model"', b"whisper")],
        [("name=model", b"whisper"), ('name="file"; filename="model"', b"x")],
        [('name="my_model"', b"no"), ('filename="model"; name="file"', b"no"), ('name="model"', b"whisper")],
    ],
)  # fmt: skip
def test_the_model_is_found_wherever_it_is(parts: list[tuple[str, bytes]]) -> None:
    assert peek_form(form(*parts), TYPE).model == "whisper"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--b",
        b"--b--b\r\nContent-Disposition: form-data; name=",
        form(('name="file"', b"x")),
        form(*[('name="x"', b"")] * (MAX_PARTS + 1), ('name="model"', b"late")),
        form(('name="x"', b'Content-Disposition: form-data; name="model"\r\n\r\nno')),
    ],
)
def test_a_form_without_a_model_names_none(body: bytes) -> None:
    assert peek_form(body, TYPE).model == ""


def test_a_long_value_is_cut() -> None:
    assert len(peek_form(form(('name="model"', b"m" * 10_000)), TYPE).model) == 1024


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"multipart/form-data", b"\xff"]
)
def test_what_is_no_form_is_refused(content_type: bytes) -> None:
    with pytest.raises(InvalidBody, match="failed to parse multipart form: "):
        peek_form(b"{}", content_type)


@pytest.mark.parametrize("given", [b"whisper", b"", b"m" * 10_000])
def test_the_model_can_be_replaced(given: bytes) -> None:
    parts = ('name="file"', b"x"), ('name="model"', given), ('name="language"', b"de")
    other = tuple((head, b"other" if head == 'name="model"' else value) for head, value in parts)
    assert with_model(form(*parts), TYPE, "other") == form(*other)
