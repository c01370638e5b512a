"""Bodies of requests that change nodes. What is refused: ``tests/sim/test_manage.py``."""

import json

import pytest

from sollol.errors import InvalidRequest
from sollol.wire.manage import COPY, CREATE, DELETE, PULL, read_digest, read_manage

HEX = "0123456789abcdef" * 4


def test_names_of_fields_are_read_without_case() -> None:
    body = read_manage(PULL, b'{"MODEL":"x", "x_new" : 1.50, "STREAM":false }')
    assert (body.model, body.stream) == ("x", False)
    assert body.model_key == "registry.ollama.ai/library/x:latest"


def test_a_null_stream_is_the_default() -> None:
    assert read_manage(PULL, b'{"model":"x","stream":null}').stream


def test_a_model_may_have_its_old_field_name() -> None:
    assert read_manage(DELETE, b'{"name":"x"}').model == "x"
    assert read_manage(DELETE, b'{"model":"","name":"x"}').model == "x"
    copied = read_manage(COPY, b'{"source":"x","destination":"y"}')
    assert (copied.model, copied.destination) == ("x", "y")


def test_what_a_model_is_made_of() -> None:
    files = {
        "a.gguf": f"sha256:{HEX}",
        "b.gguf": f"sha256-{HEX.upper()}",
        "c": "sha256:00",
        "d": "",
    }
    adapters = {"e": "sha256:" + "1" * 64}
    raw = json.dumps({"model": "x", "from": "y", "files": files, "adapters": adapters})
    body = read_manage(CREATE, raw.encode())
    assert body.digests == {f"sha256:{HEX}", "sha256:" + "1" * 64}
    assert body.source_key == "registry.ollama.ai/library/y:latest"


def test_digests() -> None:
    assert read_digest(f"sha256-{HEX.upper()}") == f"sha256:{HEX}"
    for text in ("xyz", "sha256:00", f"sha256:{HEX}0", f"sha512:{HEX}", f"sha256:{HEX}\n"):
        with pytest.raises(InvalidRequest, match="invalid digest format"):
            read_digest(text)
