"""Errors of engines in the form of the caller's API."""

import json

import pytest

from sollol.types import Dialect
from sollol.wire.bodies import engine_error

OPENAI = b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}'


def test_openais_form_becomes_anthropics() -> None:
    told = json.loads(engine_error(Dialect.ANTHROPIC, 400, OPENAI))
    assert told["type"] == "error"
    assert told["error"] == {"type": "invalid_request_error", "message": "too long"}


@pytest.mark.parametrize("dialect", [Dialect.OLLAMA, Dialect.OPENAI])
def test_other_apis_have_that_form(dialect: Dialect) -> None:
    assert engine_error(dialect, 400, OPENAI) is OPENAI


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"api_error","message":"no"},"request_id":"req_1"}',
        b'{"error":"as an Ollama says it of the cloud"}',
        b'{"error":{"code":500}}',
        b'{"error":{"message":7}}',
        b"<html>of a proxy</html>",
        b"[1]",
        b"[" * 100_000,
        b"",
    ],
)
def test_what_has_another_form_is_passed_on(body: bytes) -> None:
    assert engine_error(Dialect.ANTHROPIC, 502, body) is body
