"""A TCP relay that delivers everything later: what a longer cable does, without the kernel's help.

Run as ``python -m sollol.bench.sharding.relay HOST PORT TARGET_PORT DELAY_S``. Threads and not
asyncio, whose timers are too coarse for a tenth of a millisecond.
"""

import socket
import sys
import time
from contextlib import suppress
from queue import Queue
from threading import Thread

_PIECE_BYTES = 1 << 18
_MOST_PIECES = 64
"""On their way at once in each direction."""


def relay(listener: socket.socket, target: tuple[str, int], delay_s: float) -> None:
    """Pass on all connections, each byte ``delay_s`` after it came, until the listener is closed."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(target)
        except OSError:
            near.close()
            continue
        Thread(target=_serve, args=(near, far, delay_s), daemon=True).start()


def _serve(near: socket.socket, far: socket.socket, delay_s: float) -> None:
    """Pass on one connection, both ways, until both ends are done."""
    threads = []
    for source, sink in ((near, far), (far, near)):
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        on_the_way: Queue[tuple[float, bytes]] = Queue(_MOST_PIECES)
        threads += [
            Thread(target=_receive, args=(source, on_the_way, delay_s), daemon=True),
            Thread(target=_deliver, args=(on_the_way, sink), daemon=True),
        ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    near.close()
    far.close()


def _receive(source: socket.socket, on_the_way: Queue[tuple[float, bytes]], delay_s: float) -> None:
    piece = b"-"
    while piece:
        try:
            piece = source.recv(_PIECE_BYTES)
        except OSError:
            piece = b""
        on_the_way.put((time.monotonic() + delay_s, piece))


def _deliver(on_the_way: Queue[tuple[float, bytes]], sink: socket.socket) -> None:
    """Send what is due, to the end, which is passed on too; what nobody takes any more is dropped."""
    while True:
        due, piece = on_the_way.get()
        if (wait_s := due - time.monotonic()) > 0:
            time.sleep(wait_s)
        with suppress(OSError):
            if not piece:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(piece)


def main() -> None:
    """Relay until killed."""
    host, port, target_port, delay_s = sys.argv[1:5]
    with socket.create_server((host, int(port)), backlog=8) as listener:
        relay(listener, ("127.0.0.1", int(target_port)), float(delay_s))


if __name__ == "__main__":
    main()
