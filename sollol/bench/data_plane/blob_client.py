"""Uploads one blob as fast as it is taken, and says how long that took."""

import argparse
import hashlib
import json
import socket
import time

_PIECE_BYTES = 1 << 20


def upload(port: int, size_bytes: int, seed: int) -> tuple[int, float]:
    """Send a blob that no node has; return the status and the seconds from first byte to answer.

    Nothing is kept: it is one piece over and over, made different by ``seed``. Its digest is
    computed before the clock runs.
    """
    piece = hashlib.shake_128(str(seed).encode()).digest(_PIECE_BYTES)
    count = size_bytes // _PIECE_BYTES
    hashed = hashlib.sha256()
    for _ in range(count):
        hashed.update(piece)
    head = (
        f"POST /api/blobs/sha256:{hashed.hexdigest()} HTTP/1.1\r\nHost: localhost\r\n"
        f"Connection: close\r\nContent-Length: {count * _PIECE_BYTES}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        begin = time.perf_counter()
        connection.sendall(head.encode())
        for _ in range(count):
            connection.sendall(piece)
        status = int(connection.recv(4096).split(b" ")[1])
        return status, time.perf_counter() - begin


def main() -> None:
    """Upload and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--port", "--bytes", "--seed"):
        parser.add_argument(name, type=int, required=True)
    chosen = parser.parse_args()
    status, seconds = upload(chosen.port, chosen.bytes, chosen.seed)
    print(json.dumps({"status": status, "seconds": seconds}))


if __name__ == "__main__":
    main()
