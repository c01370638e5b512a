"""What the router says of a request that no route takes. The answers are a real Ollama's."""

import pytest

from sollol.api.routes import misrouted


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("HEAD", "/"), ("GET", "/api/tags"), ("HEAD", "/api/version"),
        ("POST", "/api/chat"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models/llama3"),
        ("POST", "/api/show"), ("GET", "/metrics"),
    ],
)  # fmt: skip
def test_routes_are_taken(method: str, path: str) -> None:
    assert misrouted(method, path) is None


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/", b"HEAD, GET"),
        ("POST", "/api/tags", b"HEAD, GET"),
        ("HEAD", "/api/ps", b"GET"),
        ("GET", "/api/chat", b"POST"),
        ("OPTIONS", "/api/chat", b"POST"),
        ("GET", "/v1/chat/completions", b"POST"),
        ("POST", "/v1/models", b"GET"),
    ],
)
def test_another_method_is_refused_with_those_allowed(method: str, path: str, allow: bytes) -> None:
    answer = misrouted(method, path)
    assert answer is not None
    assert (answer.status, answer.body) == (405, b"405 method not allowed")
    assert answer.headers == [(b"allow", allow), (b"content-type", b"text/plain")]


@pytest.mark.parametrize(
    "path", ["/nope", "/API/tags", "/api", "/v1/models/ns/name", "/debug/pprof/", "/api/nope"]
)
def test_an_unknown_path_is_not_found(path: str) -> None:
    answer = misrouted("GET", path)
    assert answer is not None
    assert (answer.status, answer.body) == (404, b"404 page not found")


@pytest.mark.parametrize("path", ["/api/tags/", "//api/tags", "/api//tags/"])
def test_slashes_too_many_are_redirected(path: str) -> None:
    answer = misrouted("GET", path)
    assert answer is not None
    assert answer.status == 301
    assert (b"location", b"/api/tags") in answer.headers
    assert answer.body == b'<a href="/api/tags">Moved Permanently</a>.\n\n'


def test_a_post_keeps_its_body_when_redirected() -> None:
    answer = misrouted("POST", "/api/chat/")
    assert answer is not None
    assert (answer.status, answer.headers) == (307, [(b"location", b"/api/chat")])
