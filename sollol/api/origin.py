"""Which web pages and which ``Host`` names may reach the API; pure, Ollama's rules.

Without these, any page a person opens could use the gateway on their machine, directly (CORS) or
by pointing its own domain name at 127.0.0.1 (DNS rebinding).
"""

import ipaddress
import re
import socket
from functools import lru_cache

Headers = list[tuple[bytes, bytes]]

ALLOWED_REQUEST_HEADERS = ",".join(
    [
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta",
        "X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval",
        "X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version",
        "X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime",
        "X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ]
).encode()
ALLOWED_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"

_LOCAL_ORIGIN = re.compile(
    r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?"
    r"|(app|file|tauri|vscode-webview|vscode-file)://.*"
    r"|(chrome|moz|safari-web)-extension://.*"
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


LONGEST = 300
"""Longer names are no hosts, and not remembered either."""


def is_allowed_origin(origin: str, host: str, extra: tuple[str, ...]) -> bool:
    """Whether a page of ``origin`` may call.

    Args:
        origin: the ``Origin`` header.
        host: the ``Host`` header; a page that the gateway itself served may always call.
        extra: the setting ``server.origins``; ``*`` allows every page.
    """
    if len(origin) > LONGEST or len(host) > LONGEST:
        return "*" in extra
    return _is_allowed_origin(origin, host, extra)


@lru_cache(maxsize=1024)
def _is_allowed_origin(origin: str, host: str, extra: tuple[str, ...]) -> bool:
    if origin in (f"http://{host}", f"https://{host}"):
        return True
    if "*" in extra or origin in extra:
        return True
    return _LOCAL_ORIGIN.fullmatch(origin) is not None


def is_allowed_host(header: str) -> bool:
    """Whether a ``Host`` header names this machine or its network, not a site on the internet.

    Asked only when the gateway listens on loopback: there, no other name can be meant honestly.
    """
    return len(header) <= LONGEST and _is_allowed_host(header)


@lru_cache(maxsize=1024)
def _is_allowed_host(header: str) -> bool:
    host = _without_port(header).lower().rstrip(".")
    if host in ("", "localhost", socket.gethostname().lower()):
        return True
    if host.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def cors_headers(origin: bytes, extra: tuple[str, ...]) -> Headers:
    """Return the headers that let a page of an allowed ``origin`` read an answer."""
    if "*" in extra:
        return [(b"access-control-allow-origin", b"*")]
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


def preflight_headers(origin: bytes, extra: tuple[str, ...]) -> Headers:
    """Return the headers that answer a browser's question before it sends a request."""
    return [
        (b"access-control-allow-headers", ALLOWED_REQUEST_HEADERS),
        (b"access-control-allow-methods", ALLOWED_METHODS),
        *cors_headers(origin, extra),
        (b"access-control-max-age", b"43200"),
        (b"vary", b"Access-Control-Request-Method"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
