"""The client for the gateway's own requests to a server: probes and inventory. Answers are bounded.

Discovery asks servers that nobody has vouched for; one that never stops talking must not fill the
memory until the time-out.
"""

import json
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from sollol.errors import UpstreamError
from sollol.upstream import failures
from sollol.upstream.http import NodeConnections, Origin, Timeouts, UpstreamRequest
from sollol.upstream.json import json_object

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Longest answer read, in one go; the inventory of a thousand models has a megabyte."""
_MAX_IDLE = 2

T = TypeVar("T")


class ControlAnswer(NamedTuple):
    """A whole answer; names of headers in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class ControlClient:
    """Asks one server. Whoever makes it closes it.

    Args:
        url: the server's base URL without a trailing slash.
        timeout_s: of connecting, and of each wait for bytes.
        ssl_context: for https; making one costs 20 ms.
        api_key: sent with every request; None for none.
        via: what requests say of who sends them.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None = None,
        api_key: str | None = None,
        via: bytes = b"",
    ) -> None:
        self.url = url
        self.api_key = api_key
        self._origin = Origin.parse(url)
        timeouts = Timeouts(connect_s=timeout_s, first_byte_s=timeout_s, stall_s=timeout_s)
        self._connections = NodeConnections(
            self._origin, timeouts, max_idle=_MAX_IDLE, ssl_context=ssl_context, via=via
        )
        self._recalled: dict[str, tuple[bytes, Any]] = {}

    async def get(self, path: str) -> ControlAnswer:
        """Return what the server answers, whatever its status.

        Raises:
            SollolError: it gave no answer, or none that may be read; as ``NodeConnections.send``.
        """
        return await self._ask("GET", path, [], b"")

    async def post(self, path: str, body: object) -> ControlAnswer:
        """Return the answer to ``body``, sent as JSON; raises as :meth:`get` does."""
        headers = [(b"content-type", b"application/json")]
        return await self._ask("POST", path, headers, json.dumps(body).encode())

    async def recall(self, path: str, read: Callable[[dict[str, Any]], T]) -> T:
        """Return what ``read`` makes of the JSON object at ``path``, of which it must change nothing.

        While the server answers the same, nothing is parsed and the same value is returned.

        Raises:
            UpstreamError: an error status; else as :meth:`get`.
            ValueError: the answer is no JSON object, or ``read`` refuses it.
        """
        answer = await self.get(path)
        if not 200 <= answer.status < 300:
            raise refused(path, answer)
        known = self._recalled.get(path)
        if known is None or known[0] != answer.body:
            known = self._recalled[path] = (answer.body, read(json_object(path, answer.body)))
        value: T = known[1]
        return value

    async def aclose(self) -> None:
        """Close the connections, also those that are being made or in use."""
        await self._connections.aclose()

    async def _ask(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> ControlAnswer:
        headers += [(b"accept", b"*/*"), (b"accept-encoding", b"identity")]
        if self.api_key is not None:
            headers.append((b"authorization", b"Bearer " + self.api_key.encode()))
        response = await self._connections.send(UpstreamRequest(method, path, headers, body))
        try:
            told = dict(response.headers)
            if told.get(b"content-encoding", b"identity") != b"identity":
                # A small answer could unpack to any length.
                reason = "the answer is compressed, though this was not asked"
                raise failures.violation(self._origin.authority, reason)
            return ControlAnswer(response.status, told, await response.read_all(MAX_ANSWER_BYTES))
        finally:
            response.close()


def refused(path: str, answer: ControlAnswer) -> UpstreamError:
    """Return the error that an answer with an error status is."""
    return UpstreamError(f"{path} answered {_status_text(answer.status)}")


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
