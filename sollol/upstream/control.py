"""The client for the gateway's own requests to nodes: probes and inventory. Answers are bounded.

Discovery asks servers that nobody has vouched for; one that never stops talking must not fill the
memory until the time-out.
"""

import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Longest answer read, in one go; the inventory of a thousand models has a megabyte."""


def control_client(
    timeout_s: float, ssl_context: ssl.SSLContext, headers: Mapping[str, str] | None = None
) -> httpx.AsyncClient:
    """Return a client; whoever takes it closes it.

    Args:
        timeout_s: of connecting, and of each wait for bytes.
        ssl_context: for https; making one costs 20 ms.
        headers: sent with every request, such as credentials.
    """
    return httpx.AsyncClient(
        headers={"accept-encoding": "identity", **(headers or {})},
        timeout=timeout_s,
        transport=_Bounded(httpx.AsyncHTTPTransport(verify=ssl_context)),
        trust_env=False,
    )


class _Bounded(httpx.AsyncBaseTransport):
    """Bounds answers, and closes the connections that httpx would forget.

    Its pool knows no connection that is still being made when the pool is closed.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        if self._is_closed:
            await response.aclose()
            await response.extensions["network_stream"].aclose()
            raise httpx.ReadError("the client was closed")
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()  # a small answer could unpack to any length
            raise httpx.RemoteProtocolError("the answer is compressed, though this was not asked")
        response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        self._is_closed = True
        await self._inner.aclose()


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise httpx.ReadError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
