"""Sends requests at fixed times and measures from those times; writes one JSON object.

A closed loop (wrk) sends less when the answer is late and so hides the wait; this one does not.
``select`` because its time-out is in microseconds: an event loop's timers are in milliseconds.
"""

import argparse
import gc
import json
import select
import socket
import time
from collections import deque

from sollol.bench.common.numbers import percentile
from sollol.bench.data_plane.bodies import chat_request, http_post

_OK = b"HTTP/1.1 200"


class PacedClient:
    """An open loop over a pool of kept-alive connections."""

    def __init__(self, port: int, connections: int) -> None:
        self._request = http_post("/api/chat", chat_request(stream=False))
        self._idle = [_connect(port) for _ in range(connections)]
        self._busy: dict[socket.socket, float] = {}
        self._received: dict[socket.socket, bytes] = {}
        self._waiting: deque[float] = deque()
        self.latencies_s: list[float] = []
        self.lateness_s: list[float] = []

    def run(self, rate_per_s: float, requests: int) -> None:
        """Send ``requests`` requests and return after the last answer."""
        begin = time.monotonic() + 0.01
        planned = 0
        while len(self.latencies_s) < requests:
            now = time.monotonic()
            while planned < requests and now >= begin + planned / rate_per_s:
                self._waiting.append(begin + planned / rate_per_s)
                self.lateness_s.append(now - self._waiting[-1])
                planned += 1
            self._send_waiting()
            wait_s = begin + planned / rate_per_s - time.monotonic() if planned < requests else 5.0
            readable, _, _ = select.select(list(self._busy), [], [], max(0.0, wait_s))
            if not readable and planned == requests:
                raise SystemExit("no answer for 5 s")
            for connection in readable:
                self._receive(connection)

    def _send_waiting(self) -> None:
        while self._waiting and self._idle:
            connection = self._idle.pop()
            self._busy[connection] = self._waiting.popleft()
            self._received[connection] = b""
            connection.sendall(self._request)

    def _receive(self, connection: socket.socket) -> None:
        received = connection.recv(65536)
        now = time.monotonic()
        if not received:
            raise SystemExit("the connection was closed")
        self._received[connection] += received
        if not _is_whole(self._received[connection]):
            return
        self.latencies_s.append(now - self._busy.pop(connection))
        self._idle.append(connection)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(_OK):
        raise SystemExit(f"unexpected answer: {answer[:500]!r}")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    return len(body) == int(length)


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate-per-s", type=float, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    gc.disable()
    client = PacedClient(options.port, options.connections)
    client.run(options.rate_per_s, options.requests)
    report = {
        "latency_s": [percentile(client.latencies_s, ratio) for ratio in (0.5, 0.99)],
        "lateness_p99_s": percentile(client.lateness_s, 0.99),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
