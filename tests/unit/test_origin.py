"""Who may call: origins and host names. The cases are answers of a real Ollama."""

import pytest

from sollol.api.origin import cors_headers, is_allowed_host, is_allowed_origin, preflight_headers


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://0.0.0.0:1",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://abc",
        "chrome-extension://abcdef",
        "moz-extension://abcdef",
    ],
)
def test_pages_of_this_machine_may_call(origin: str) -> None:
    assert is_allowed_origin(origin, "127.0.0.1:11435", ())


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://localhost.evil.example", "http://127.0.0.1.evil", "null", ""],
)
def test_other_pages_may_not(origin: str) -> None:
    assert not is_allowed_origin(origin, "127.0.0.1:11435", ())


def test_a_page_the_gateway_served_may_call() -> None:
    assert is_allowed_origin("http://node1.local", "node1.local", ())


def test_the_setting_adds_origins() -> None:
    assert is_allowed_origin("https://chat.example", "x", ("https://chat.example",))
    assert is_allowed_origin("https://any.example", "x", ("*",))
    assert cors_headers(b"https://any.example", ("*",)) == [(b"access-control-allow-origin", b"*")]


@pytest.mark.parametrize(
    "host",
    [
        "", "localhost", "localhost:11435", "127.0.0.1:11435", "[::1]:11435", "[::1]",
        "10.1.2.3:11434", "192.168.1.9", "node1.local", "a.localhost", "db.internal:80", "LOCALHOST",
    ],
)  # fmt: skip
def test_names_of_this_machine_and_network_are_served(host: str) -> None:
    assert is_allowed_host(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:11435", "8.8.8.8", "local.evil.com"]
)
def test_names_on_the_internet_are_not(host: str) -> None:
    assert not is_allowed_host(host)


def test_a_preflight_is_answered_as_ollama_does() -> None:
    headers = preflight_headers(b"http://localhost:3000", ())
    assert (b"access-control-allow-origin", b"http://localhost:3000") in headers
    assert (b"access-control-max-age", b"43200") in headers
    varies = [value for name, value in headers if name == b"vary"]
    assert varies == [
        b"Origin",
        b"Access-Control-Request-Method",
        b"Access-Control-Request-Headers",
    ]
