"""Puts a real gateway between the ``ollama`` package's own test-suite and its mock server.

    client  ->  gateway (``sollol serve``)  ->  ProbeShim  ->  the suite's mock server

The mock server fails on any request that its test did not announce, so the shim answers the
gateway's probes and passes everything else on, byte for byte. ``ollama_suite.py`` runs it.
"""

import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tests.clients.process import running_gateway_process

MODELS = ("dummy", "dummy-image", "mymodel", "model", "nimble", "qwen3.8:27b")
PROBES: dict[str, dict[str, Any]] = {
    "/api/version": {"version": "0.40.0"},
    "/api/ps": {"models": []},
    "/api/tags": {
        "models": [
            {
                "name": name if ":" in name else f"{name}:latest",
                "model": name if ":" in name else f"{name}:latest",
                "digest": f"{number:064x}",
                "size": 1,
                "modified_at": "2026-01-01T00:00:00Z",
                "details": {},
                "capabilities": ["completion"],
            }
            for number, name in enumerate(MODELS)
        ]
    },
}


class ProbeShim(http.server.BaseHTTPRequestHandler):
    """A node in front of the mock server. ``mock_port`` is set on a subclass."""

    protocol_version = "HTTP/1.1"
    mock_port = 0

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the gateway gave the connection up
            self.close_connection = True

    def do_GET(self) -> None:
        answer = PROBES.get(self.path)
        if answer is None:
            self.pass_on()
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pass_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.mock_port, timeout=10)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        headers.pop("Transfer-Encoding", headers.pop("transfer-encoding", None))
        connection.request(self.command, self.path, self.read_body(), headers)
        answer = connection.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(65536):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")
        connection.close()

    do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815 (names of the base class)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def gateway_url(make_httpserver: HTTPServer) -> Iterator[str]:
    """Run a gateway over the mock server."""
    handler = type("Shim", (ProbeShim,), {"mock_port": make_httpserver.port})
    shim = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=shim.serve_forever, daemon=True).start()
    try:
        with running_gateway_process(f"http://127.0.0.1:{shim.server_port}") as url:
            yield url
    finally:
        shim.shutdown()
        shim.server_close()


@pytest.fixture
def httpserver(make_httpserver: HTTPServer, gateway_url: str) -> Iterator[HTTPServer]:
    """The suite's fixture of this name, but its address is the gateway's.

    Some tests put the path of a route into the address and match by its beginning; a gateway has
    no routes below another, so the address is always the root.
    """
    server = make_httpserver
    server.clear()
    server.url_for = lambda _: gateway_url  # type: ignore[method-assign,assignment]
    yield server
    server.check_assertions()
    server.clear()
