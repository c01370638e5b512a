"""What is asked of the system about the socket of a connection."""

import fcntl
import socket
import sys
import termios

_KEEPALIVE = {  # finds a node without power in 30 s, which is otherwise never noticed
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,  # milliseconds
}


def unconfirmed_bytes(sock: socket.socket) -> int:
    """Return how much of what was written the other system has not confirmed; 0 where nobody says."""
    count = bytearray(4)
    try:
        fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return int.from_bytes(count, sys.byteorder)


def set_options(sock: socket.socket) -> None:
    """Set what a connection to a node is to have."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
