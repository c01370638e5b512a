"""How many callers may be connected at once, and what those beyond that get."""

from enum import Enum

import structlog

log = structlog.get_logger()

SPARE = 16
"""Connections beyond the bound that are still listened to: they may look how the gateway is."""

ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})

FULL = b'{"error":"too many connections (server.max_connections)"}'
FULL_HEADERS = [(b"content-type", b"application/json"), (b"retry-after", b"1")]


class Entry(Enum):
    """What a connection may do: ask for anything, for ``ALWAYS_ANSWERED`` only, or nothing."""

    FREE = "free"
    SPARE = "spare"
    NONE = "none"


class Door:
    """Decides on each connection, and tells the log once when there are too many."""

    def __init__(self, max_connections: int) -> None:
        self._most = max_connections
        self._is_full = False

    def entry(self, count: int) -> Entry:
        """Return what a new connection may do.

        Args:
            count: how many are open, this one included.
        """
        if count <= self._most:
            self._is_full = self._is_full and count > self._most * 0.9
            return Entry.FREE
        if not self._is_full:
            self._is_full = True
            log.warning("connections_full", max_connections=self._most)
        return Entry.SPARE if count <= self._most + SPARE else Entry.NONE
