"""A node that streams as cheaply as Python can: plain sockets, one queue of due chunks.

Each record carries the moment it was sent, in nanoseconds of the monotonic clock, which is the
same in all processes of a machine: whoever receives it knows how long it was on its way.
"""

import argparse
import gc
import json
import select
import socket
import time
from collections import deque
from dataclasses import dataclass

from sollol.bench.data_plane.bodies import CHAT_ANSWER, CONTROL_ANSWERS, MODEL

_RECORD = (
    b'{"model":"' + MODEL.encode() + b'","created_at":"2025-01-01T00:00:00.123456Z",'
    b'"message":{"role":"assistant","content":"%020d"},"done":false}\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_RECORD % 0), _RECORD)
_FINAL = (
    b'{"model":"' + MODEL.encode() + b'","created_at":"2025-01-01T00:00:00.123456Z",'
    b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":5000000000,"eval_count":150,"eval_duration":4900000000}\n'
)
_LAST_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_FINAL), _FINAL)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_IDLE_WAIT_S = 1.0
ACTIVE_PATH = "/bench/active_streams"
"""Answers how many streams are not at their end, as a JSON number."""


@dataclass(slots=True)
class _Stream:
    """An answer in progress. ``unsent`` did not fit into the socket; ``due_s`` is monotonic."""

    socket: socket.socket
    chunks_left: int
    period_s: float
    due_s: float
    unsent: bytes = b""
    is_open: bool = True


class _Connection:
    """A caller's connection; ``received`` is the part of a request that has come."""

    __slots__ = ("received", "socket", "stream")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.received = b""
        self.stream: _Stream | None = None


class StreamNode:
    """Serves until killed. All streams of one moment must have the same period."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        # With one period for all, appending what was just sent keeps this in order of due time.
        self._due: deque[_Stream] = deque()

    def run(self) -> None:
        """Answer requests and send chunks when they are due."""
        while True:
            for fd, _ in self._poll.poll(self._wait_s()):
                connection = self._connections.get(fd)
                if connection is None:
                    self._accept()
                else:
                    self._receive(fd, connection)
            self._send_due()

    def _wait_s(self) -> float:
        if not self._due:
            return _IDLE_WAIT_S
        return max(0.0, self._due[0].due_s - time.monotonic())

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[accepted.fileno()] = _Connection(accepted)
        self._poll.register(accepted.fileno(), select.EPOLLIN)

    def _receive(self, fd: int, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            received = b""
        if not received:
            if connection.stream is not None:
                connection.stream.is_open = False
            del self._connections[fd]
            connection.socket.close()  # epoll forgets it
            return
        connection.received += received
        head, found, body = connection.received.partition(b"\r\n\r\n")
        if found and len(body) >= _content_length(head):
            connection.received = b""
            self._answer(connection, head.split(b" ", 2)[1].decode(), body)

    def _answer(self, connection: _Connection, path: str, body: bytes) -> None:
        if path == ACTIVE_PATH:
            active = sum(stream.is_open for stream in self._due)
            self._send_json(connection.socket, str(active).encode())
            return
        if path in CONTROL_ANSWERS:
            self._send_json(connection.socket, CONTROL_ANSWERS[path])
            return
        request = json.loads(body)
        if not request["stream"]:
            self._send_json(connection.socket, CHAT_ANSWER)
            return
        options = request["options"]
        connection.stream = _Stream(
            connection.socket,
            chunks_left=options["num_predict"],
            period_s=1 / options["chunks_per_s"],
            due_s=time.monotonic(),
            unsent=_STREAM_HEAD,
        )
        self._send(connection.stream)

    def _send_json(self, to: socket.socket, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        to.sendall(head % len(body) + body)

    def _send_due(self) -> None:
        due, now = self._due, time.monotonic()
        while due and due[0].due_s <= now:
            stream = due.popleft()
            if stream.is_open:
                self._send(stream)

    def _send(self, stream: _Stream) -> None:
        """Send the next chunk and put the stream back into the queue, unless this was its end."""
        if stream.chunks_left > 0:
            stream.unsent += _CHUNK % time.monotonic_ns()
            stream.chunks_left -= 1
            if stream.chunks_left == 0:
                stream.unsent += _LAST_CHUNK
        try:
            stream.unsent = stream.unsent[stream.socket.send(stream.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            stream.is_open = False
            return
        if stream.chunks_left > 0 or stream.unsent:
            stream.due_s += stream.period_s
            self._due.append(stream)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


def main() -> None:
    """Listen and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    gc.disable()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        listener.setblocking(False)
        StreamNode(listener).run()


if __name__ == "__main__":
    main()
