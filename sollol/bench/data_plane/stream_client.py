"""Reads many streams at once and measures them; writes one JSON object.

Plain sockets and epoll: what this costs comes from the core that the streaming node runs on.
"""

import argparse
import gc
import json
import re
import select
import socket
import time
from array import array

from sollol.bench.common.numbers import percentile
from sollol.bench.data_plane.bodies import chat_request, http_post

_SENT_NS = re.compile(rb'"content":"(\d{20})"')
_FINAL = b'"done":true'
_END = b"0\r\n\r\n"
_OK = b"HTTP/1.1 200"


class _Stream:
    """One answer. ``rest`` came after the last whole record; ``is_final`` tells of that record."""

    __slots__ = ("chunks", "is_final", "rest", "socket", "started_ns")

    def __init__(self, connected: socket.socket, started_ns: int) -> None:
        self.socket = connected
        self.started_ns = started_ns
        self.chunks = 0
        self.rest = b""
        self.is_final = False


class StreamClient:
    """Opens streams at a steady pace and reads all of them to their end."""

    def __init__(self, port: int, chunks: int, chunks_per_s: float) -> None:
        self._port = port
        self._chunks = chunks
        body = chat_request(stream=True, chunks=chunks, chunks_per_s=chunks_per_s)
        self._request = http_post("/api/chat", body)
        self._poll = select.epoll()
        self._streams: dict[int, _Stream] = {}
        self.first_ns = array("q")
        self.delays_ns = array("q")
        self.finished = 0

    def run(self, streams: int, starts_per_s: float, timeout_s: float) -> None:
        """Open ``streams`` streams and return at the end of the last one, or after a time-out."""
        begin = time.monotonic()
        started = 0
        while started < streams or self._streams:
            now = time.monotonic()
            if now > begin + timeout_s:
                return
            while started < streams and now >= begin + started / starts_per_s:
                self._start()
                started += 1
            wait_s = begin + started / starts_per_s - now if started < streams else 1.0
            for fd, _ in self._poll.poll(max(0.0, wait_s)):
                self._receive(fd, self._streams[fd])

    def _start(self) -> None:
        started_ns = time.monotonic_ns()
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.sendall(self._request)
        connected.setblocking(False)
        self._streams[connected.fileno()] = _Stream(connected, started_ns)
        self._poll.register(connected.fileno(), select.EPOLLIN)

    def _receive(self, fd: int, stream: _Stream) -> None:
        try:
            received = stream.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            received = b""
        now_ns = time.monotonic_ns()
        if not received:
            self._close(fd, stream)
            return
        text = stream.rest + received if stream.rest else received
        if stream.chunks == 0 and not self._begin(text, stream, now_ns):
            return
        whole = text.rfind(b"}\n") + 2
        if whole >= 2:
            sent = _SENT_NS.findall(text, 0, whole)
            stream.chunks += len(sent)
            for sent_ns in sent:
                self.delays_ns.append(now_ns - int(sent_ns))
            stream.is_final = stream.chunks == self._chunks and _FINAL in text
            stream.rest = text[whole:]
        else:
            stream.rest = text
        if stream.is_final and stream.rest.endswith(_END):
            self.finished += 1
            self._close(fd, stream)

    def _begin(self, text: bytes, stream: _Stream, now_ns: int) -> bool:
        """Note the first chunk; False when it is not there yet."""
        if not text.startswith(_OK):
            raise SystemExit(f"unexpected answer: {text[:500]!r}")
        if b"}\n" not in text:
            stream.rest = text
            return False
        self.first_ns.append(now_ns - stream.started_ns)
        return True

    def _close(self, fd: int, stream: _Stream) -> None:
        del self._streams[fd]
        stream.socket.close()


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--chunks", type=int, required=True, help="for each stream")
    parser.add_argument("--chunks-per-s", type=float, required=True, help="for each stream")
    parser.add_argument("--starts-per-s", type=float, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    options = parser.parse_args()
    gc.disable()
    client = StreamClient(options.port, options.chunks, options.chunks_per_s)
    client.run(options.streams, options.starts_per_s, options.timeout_s)
    report = {
        "finished": client.finished,
        "chunks": len(client.delays_ns),
        "cpu_s": time.process_time(),
        "first_s": _percentiles_s(client.first_ns),
        "delay_s": _percentiles_s(client.delays_ns),
    }
    print(json.dumps(report))


def _percentiles_s(values_ns: "array[int]") -> list[float]:
    if not values_ns:
        return [0.0, 0.0]
    return [percentile(values_ns, ratio) / 1e9 for ratio in (0.5, 0.99)]


if __name__ == "__main__":
    main()
