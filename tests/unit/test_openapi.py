"""The description of the routes is whole."""

from typing import Any

import pytest

from sollol.api.app import App
from sollol.api.routes import methods_of
from sollol.gateway.gateway import Gateway
from sollol.wire.kinds import BODY_KINDS
from tests.gateways import make_settings

EXAMPLES = {
    "{digest}": "sha256:0",
    "{key}": "a",
    "{name}": "m",
    "{node_id}": "n",
}


@pytest.fixture(scope="module")
def paths() -> dict[str, Any]:
    found: dict[str, Any] = App(Gateway(make_settings())).description()["paths"]
    return found


def test_every_operation_has_an_id_of_its_own(paths: dict[str, Any]) -> None:
    ids = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def concrete(path: str) -> str:
    for name, example in EXAMPLES.items():
        path = path.replace(name, example)
    return path


def test_what_is_described_is_routed_and_the_other_way_round(paths: dict[str, Any]) -> None:
    for path, methods in paths.items():
        assert set(methods_of(concrete(path))) == {method.upper() for method in methods}, path


def test_the_forwarded_routes_are_described_with_their_fields(paths: dict[str, Any]) -> None:
    assert set(BODY_KINDS) <= set(paths)
    body = paths["/api/chat"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["model"] == {"type": "string"}
    assert body["properties"]["stream"] == {"type": "boolean"}
    assert body["properties"]["top_logprobs"] == {"type": "integer"}
    assert body["properties"]["keep_alive"] == {}
    form = paths["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]
    assert list(form) == ["multipart/form-data"]
