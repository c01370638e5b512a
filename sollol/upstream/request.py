"""What is sent to a node: where it lives, the request, and its bytes on the wire. No I/O."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from sollol.wire.hops import VIA

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNSAFE_IN_TARGET = re.compile(r"[^\x21-\x7e]")
_METHOD = re.compile(r"[A-Z]+")
_HEADER_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OWN_HEADERS = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"expect",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
"""Headers that decide framing or belong to one connection: the client writes them itself."""
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Origin(NamedTuple):
    """Where a node listens. ``base_path`` is put before every target and has no slash at its end.

    A tuple because it is looked up with every request: a dataclass's hash is Python.
    """

    scheme: str
    host: str
    port: int
    base_path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a node's URL, such as ``http://gpu1:11434`` or ``https://[fd00::1]/ollama``.

        Raises:
            ValueError: the text is not the URL of an HTTP server; the message says why and never
                repeats a password.
        """
        if "@" in url:
            raise ValueError("a node URL must not contain a user name or password")
        if _UNSAFE_IN_TARGET.sub("", url.strip()) != url:
            raise ValueError(f"node URL {url!r}: only printable ASCII characters, no spaces")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"node URL {url!r}: {error}") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"node URL {url!r}: it must start with http:// or https://")
        if not parts.hostname or port == 0:
            raise ValueError(f"node URL {url!r}: it needs a host, and a port above 0 if any")
        if parts.query or parts.fragment:
            raise ValueError(f"node URL {url!r}: no query (?) and no fragment (#)")
        host = _checked_host(url, parts.hostname)
        return cls(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host and port as the ``Host`` header and messages show them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def _checked_host(url: str, host: str) -> str:
    try:
        host.encode("idna")  # what a name look-up does with it
    except UnicodeError as error:
        raise ValueError(f"node URL {url!r}: {host!r} is not a host name: {error}") from None
    return host


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a node may keep us waiting, in seconds; only time spent waiting for it counts.

    ``connect_s`` covers name look-up, TCP and TLS; ``first_byte_s`` is the longest silence from the
    whole request sent to the response head, and from there to the first byte of the body: some
    servers send the head before they begin to work; ``stall_s`` is the longest silence later on, and
    while the request is sent. After ``lull_s`` of silence it is asked whether an answer is over whose
    body has not ended.
    """

    connect_s: float = 2.0
    first_byte_s: float = 600.0
    stall_s: float = 60.0
    lull_s: float = 2.0


Patience = Callable[[float], float]
"""Takes the seconds that a node was waited for; returns how many more to wait, 0 to give up."""


class UpstreamRequest(msgspec.Struct):
    """A request to a node.

    ``target`` is the path with its query, put after the origin's base path. ``headers`` hold no
    ``Host`` and nothing about framing or the connection. A body that is an iterator is read once;
    ``content_length`` is its length in bytes, and without one it is sent in chunks.
    ``first_byte_s`` and ``stall_s`` are limits in place of the pool's, see :class:`Timeouts`;
    ``patience`` is asked when the first of them has passed.
    """

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes] = b""
    content_length: int | None = None
    first_byte_s: float | None = None
    stall_s: float | None = None
    patience: Patience | None = None


def encode_head(request: UpstreamRequest, origin: Origin, via: bytes = b"") -> bytes:
    """Return the request line and all headers, with the empty line that ends them.

    Args:
        via: goes behind what ``Via`` the request came with.

    Raises:
        ValueError: a part of the request could change its framing, or must not be set by callers.
    """
    headers = tuple(request.headers)
    return _unframed(origin, request.method, request.target, headers, via) + _framing(request)


@lru_cache(maxsize=256)  # a client sends the same headers with every request
def _unframed(
    origin: Origin, method: str, target: str, headers: tuple[tuple[bytes, bytes], ...], via: bytes
) -> bytes:
    lines = [_first_lines(origin, method, target)]
    for name, value in (*headers, (VIA, via)) if via else headers:
        _check_header_name(name)
        lines.append(name + b": " + value)
    head = b"\r\n".join(lines)
    ends = len(lines)  # one in the first lines, the others between them and the headers
    if b"\0" in head or head.count(b"\n") != ends or head.count(b"\r") != ends:
        raise ValueError("the value of a request header contains CR, LF or NUL")
    return head


def _first_lines(origin: Origin, method: str, target: str) -> bytes:
    if not _METHOD.fullmatch(method):
        raise ValueError(f"not an HTTP method: {method!r}")
    if not target.startswith("/") or _UNSAFE_IN_TARGET.search(target):
        raise ValueError(f"a target is an absolute path in printable ASCII, not {target!r}")
    lines = f"{method} {origin.base_path}{target} HTTP/1.1\r\nhost: {origin.authority}"
    return lines.encode("ascii")


def _check_header_name(name: bytes) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    if name.lower() in _OWN_HEADERS:
        raise ValueError(f"header {name!r} is written by the client itself")


def _framing(request: UpstreamRequest) -> bytes:
    """Return the end of the head, with the header that frames the body if one is needed."""
    length = request.content_length
    if not isinstance(request.body, bytes):
        if length is None:
            return b"\r\ntransfer-encoding: chunked\r\n\r\n"
        return b"\r\ncontent-length: %d\r\n\r\n" % length
    if length is not None and length != len(request.body):
        raise ValueError(f"content_length is {length}, the body has {len(request.body)} bytes")
    if request.body or request.method in _METHODS_WITH_BODY:
        return b"\r\ncontent-length: %d\r\n\r\n" % len(request.body)
    return b"\r\n\r\n"
